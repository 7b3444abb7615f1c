//! Whose objects they are.

use std::sync::Arc;

use chiton_driver::{ObservedStatus, Point, PortableWrite};
use chiton_model::label::managed;

use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal};

pub(crate) async fn sees_its_own_only(stage: Arc<Stage>) -> Verdict {
    let (life, neighbour) = (stage.life().await?, stage.neighbour().await?);
    let (own, theirs) = (sandbox_id()?, sandbox_id()?);
    let mut watch = neighbour.watch();
    equal("a neighbour's snapshot", &watch.snapshot().await?, &Vec::new())?;
    // Both are called "box" in the workspace "default".
    life.launched(&life.sleeper(), &own).await?;
    neighbour.launched(&neighbour.sleeper(), &theirs).await?;
    for (life, sees, other) in [(&life, &own, &theirs), (&neighbour, &theirs, &own)] {
        let listed: Vec<_> = life.list().await?.into_iter().map(|observed| observed.id).collect();
        equal("the list", &listed, &vec![sees.clone()])?;
        equal("the neighbour's sandbox, by get", &life.get(other).await?, &None)?;
        let snapshot: Vec<_> = life.watch().snapshot().await?.into_iter().map(|observed| observed.id).collect();
        equal("the snapshot", &snapshot, &vec![sees.clone()])?;
    }
    // The first news that the neighbour's watch has are of its own.
    let first = watch.next("news of its own sandbox").await?;
    let of = match &first {
        Some(chiton_driver::DriverEvent::Changed(observed)) => Some(observed.id.clone()),
        Some(chiton_driver::DriverEvent::Progress { id, .. }) => Some(id.clone()),
        _ => None,
    };
    equal("whose news a watch has", &of, &Some(theirs.clone()))?;
    life.delete(&own).await?;
    neighbour.delete(&theirs).await?;
    stage.nothing_left().await
}

pub(crate) async fn deletes_its_own_only(stage: Arc<Stage>) -> Verdict {
    let (life, neighbour) = (stage.life().await?, stage.neighbour().await?);
    let id = sandbox_id()?;
    life.launched(&life.sleeper(), &id).await?;
    neighbour.stop(&id).await?;
    neighbour.delete(&id).await?;
    equal("the status of the owner's", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn leaves_foreign_objects(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let foreign = stage.bench().foreign(&life.gateway, &id).await?;
    let looked = async {
        equal("the list", &life.list().await?, &Vec::new())?;
        equal("a get of its id", &life.get(&id).await?, &None)?;
        equal("the snapshot", &life.watch().snapshot().await?, &Vec::new())?;
        life.stop(&id).await?;
        life.delete(&id).await?;
        stage.life().await?.delete(&id).await?;
        ensure(foreign.is_there().await?, "the object made by hand", "there still", "gone")
    };
    let looked = looked.await;
    foreign.remove().await?;
    looked
}

pub(crate) async fn next_life_sees_all(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let (created, running, exited) = (sandbox_id()?, sandbox_id()?, sandbox_id()?);
    life.create(&life.call(&life.sleeper(), &created).await?).await?;
    life.launched(&life.sleeper(), &running).await?;
    life.launched(&life.script("exit 4"), &exited).await?;
    life.exit(&exited).await?;
    let mut before = life.list().await?;
    drop(life);
    let next = stage.life().await?;
    let mut after = next.list().await?;
    for list in [&mut before, &mut after] {
        list.sort_by(|one, two| one.id.cmp(&two.id));
    }
    equal("the list of the next life", &after, &before)?;
    equal("how many there are", &after.len(), &3)?;
    next.stop(&running).await?;
    for id in [&created, &running, &exited] {
        next.delete(id).await?;
    }
    equal("the list", &next.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn labels_win(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let mut request = life.sleeper();
    request.labels.insert("team".to_owned(), "blue".to_owned());
    // The API refuses such a label; the driver must not rely on it.
    request.labels.insert(managed::SANDBOX_ID.to_owned(), "s-forged".to_owned());
    request.labels.insert(managed::GATEWAY_ID.to_owned(), "g-forged".to_owned());
    let mut plan = life.plan(&request).await?;
    if life.driver.capabilities().points.contains(&Point::Label) {
        for key in [managed::MANAGED_BY, managed::WORKSPACE, managed::STORE_EPOCH] {
            let write = PortableWrite::Label { key: key.to_owned(), value: "forged".to_owned() };
            // Refused now or overridden later: both keep the rule.
            drop(life.driver.write_portable(&mut plan.plan, &write));
        }
    }
    let call = life.prepared(plan, &id, &std::collections::BTreeMap::new()).await?;
    life.create(&call).await?;
    let labels = stage.bench().labels(&life.gateway, &id).await?;
    for (key, value) in call.identity.labels() {
        let found: Vec<_> = labels.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect();
        equal(&format!("label {key} of the object"), &found, &vec![value])?;
    }
    let team = labels.iter().find(|(name, _)| name == "team").map(|(_, value)| value.as_str());
    equal("the request's own label", &team, &Some("blue"))?;
    let observed = life.get(&id).await?.map(|observed| (observed.id, observed.gateway));
    equal("the sandbox", &observed, &Some((id.clone(), life.gateway.clone())))?;
    life.delete(&id).await?;
    stage.nothing_left().await
}
