//! Named volumes.

use std::sync::Arc;

use chiton_driver::{CallError, CallResult, Feature, Volume, VolumeRequest};
use chiton_model::{ErrorKind, MemoryQuantity, StoreEpoch, VolumeMount, VolumeName, WorkspaceName};

use crate::life::{Life, failed};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Failure, Verdict, ensure, equal, skip, tells, wrong};

async fn kept(stage: &Stage) -> Verdict<Arc<Life>> {
    let life = stage.life().await?;
    life.needs(Feature::Volumes)?;
    Ok(life)
}

fn name(text: &str) -> Verdict<VolumeName> {
    VolumeName::new(text).map_err(|error| Failure::bench("name a volume", error).into())
}

fn mount(of: &str, target: &str, read_only: bool) -> Verdict<VolumeMount> {
    Ok(VolumeMount { name: name(of)?, target: target.to_owned(), read_only })
}

fn asked(of: &str, size: Option<&str>) -> Verdict<VolumeRequest> {
    let known = |error| Failure::bench("name things", error);
    Ok(VolumeRequest {
        workspace: WorkspaceName::default(),
        name: name(of)?,
        size: size.map(|size| MemoryQuantity::parse("size", size)).transpose().map_err(known)?,
        by: "uid:7".to_owned(),
        epoch: StoreEpoch::new("e-1").map_err(known)?,
    })
}

async fn create(life: &Life, request: &VolumeRequest) -> Verdict<CallResult<Volume>> {
    life.ended("create_volume", life.driver.deadlines().act, life.driver.create_volume(request)).await
}

async fn delete(life: &Life, of: &str) -> Verdict<CallResult<()>> {
    let (workspace, name) = (WorkspaceName::default(), name(of)?);
    life.ended("delete_volume", life.driver.deadlines().act, life.driver.delete_volume(&workspace, &name)).await
}

async fn list(life: &Life) -> Verdict<Vec<Volume>> {
    let listed = life.look("volumes", life.driver.volumes()).await?;
    listed.map_err(|error| Failure::Call { call: "volumes".to_owned(), error }.into())
}

fn done<T>(call: &str, result: CallResult<T>) -> Verdict<T> {
    result.map_err(|error| Failure::Call { call: call.to_owned(), error }.into())
}

fn is(what: &str, error: &CallError, kind: &ErrorKind) -> Verdict {
    ensure(error.error().kind == *kind, what, kind.code(), format!("{error:?}"))
}

pub(crate) async fn outlives_sandboxes(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let mut request = life.script("echo kept > /data/note; exit 5");
    request.volumes = vec![mount("shared", "/data", false)?];
    // Made by the sandbox that names it first.
    equal("the writer's exit code", &life.run(&request).await?.0.code, &Some(5))?;
    let volumes = list(&life).await?;
    let [volume] = &volumes[..] else { return Err(wrong("the volumes", "one", format!("{volumes:?}"))) };
    equal("its name", volume.name.as_str(), "shared")?;
    equal("whose it is", &volume.gateway, &life.gateway)?;
    equal("who asked for it", volume.created_by.as_str(), "uid:0")?;
    equal("who uses it", &volume.used_by, &Vec::new())?;
    let next = stage.life().await?;
    let mut request = next.script("[ \"$(cat /srv/x/note)\" = kept ] && exit 6; exit 7");
    request.volumes = vec![mount("shared", "/srv/x", false)?];
    equal("the reader's exit code", &next.run(&request).await?.0.code, &Some(6))?;
    done("delete_volume", delete(&next, "shared").await?)?;
    equal("the volumes after the delete", &list(&next).await?, &Vec::new())?;
    // One of the same name is another, empty.
    equal("the reader's exit code of a new one", &next.run(&request).await?.0.code, &Some(7))?;
    done("delete_volume", delete(&next, "shared").await?)?;
    stage.nothing_left().await
}

pub(crate) async fn in_use_is_not_deleted(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let id = sandbox_id()?;
    let mut request = life.sleeper();
    request.volumes = vec![mount("used", "/data", false)?];
    life.launched(&request, &id).await?;
    for stopped in [false, true] {
        if stopped {
            life.stop(&id).await?;
        }
        let error = failed("the delete of a volume in use", delete(&life, "used").await?)?;
        is("the delete of a volume in use", &error, &ErrorKind::Conflict)?;
        tells(error.error(), &[id.as_str()])?;
        let users: Vec<_> =
            list(&life).await?.into_iter().flat_map(|volume| volume.used_by).map(|user| user.id).collect();
        equal("who uses it", &users, &vec![id.clone()])?;
    }
    life.delete(&id).await?;
    done("delete_volume", delete(&life, "used").await?)?;
    stage.nothing_left().await
}

pub(crate) async fn is_made_once(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let made = done("create_volume", create(&life, &asked("v", None)?).await?)?;
    equal("what is made", &(made.name.as_str(), made.created_by.as_str()), &("v", "uid:7"))?;
    let error = failed("a second create", create(&life, &asked("v", None)?).await?)?;
    is("a second create of a volume", &error, &ErrorKind::AlreadyExists)?;
    equal("the list", &list(&life).await?, &vec![made])?;
    done("delete_volume", delete(&life, "v").await?)?;
    let error = failed("the delete of nothing", delete(&life, "v").await?)?;
    is("the delete of a volume that is not there", &error, &ErrorKind::NotFound)?;
    stage.nothing_left().await
}

pub(crate) async fn read_only_is_honoured(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let mut writer = life.script("echo one > /data/note");
    writer.volumes = vec![mount("v", "/data", false)?];
    equal("the writer's exit code", &life.run(&writer).await?.0.code, &Some(0))?;
    let script = "[ -e /data/note ] || exit 3; if (echo two > /data/note) 2> /dev/null; then exit 4; fi; \
                  if rm /data/note 2> /dev/null; then exit 5; fi; exit 6";
    let mut reader = life.script(script);
    reader.volumes = vec![mount("v", "/data", true)?];
    equal("the reader's exit code", &life.run(&reader).await?.0.code, &Some(6))?;
    done("delete_volume", delete(&life, "v").await?)?;
    stage.nothing_left().await
}

pub(crate) async fn size_is_kept_or_refused(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let made = match create(&life, &asked("v", Some("16Mi"))?).await? {
        Ok(made) => made,
        Err(error) => {
            tells(error.error(), &[])?;
            equal("the volumes after a refusal", &list(&life).await?, &Vec::new())?;
            return skip(format!("a size is refused, as it must be where it is not kept: {error}"));
        }
    };
    equal("its size", &made.size, &Some(16 << 20))?;
    let mut request = life.script("dd if=/dev/zero of=/data/x bs=64k count=1024 2> /dev/null && exit 3; exit 4");
    request.volumes = vec![mount("v", "/data", false)?];
    equal("64 MiB in a volume of 16 MiB", &life.run(&request).await?.0.code, &Some(4))?;
    done("delete_volume", delete(&life, "v").await?)?;
    stage.nothing_left().await
}

pub(crate) async fn is_its_gateways(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let neighbour = stage.neighbour().await?;
    done("create_volume", create(&life, &asked("v", None)?).await?)?;
    equal("a neighbour's volumes", &list(&neighbour).await?, &Vec::new())?;
    let error = failed("a neighbour's delete", delete(&neighbour, "v").await?)?;
    is("a neighbour's delete of a volume", &error, &ErrorKind::NotFound)?;
    // The same name is another volume there.
    let mut request = neighbour.script("echo theirs > /data/note");
    request.volumes = vec![mount("v", "/data", false)?];
    equal("the neighbour's exit code", &neighbour.run(&request).await?.0.code, &Some(0))?;
    let mut request = life.script("[ -e /data/note ] && exit 3; exit 4");
    request.volumes = vec![mount("v", "/data", false)?];
    equal("the exit code of a look for the neighbour's file", &life.run(&request).await?.0.code, &Some(4))?;
    done("delete_volume", delete(&life, "v").await?)?;
    equal("how many the neighbour has", &list(&neighbour).await?.len(), &1)?;
    done("delete_volume", delete(&neighbour, "v").await?)?;
    stage.nothing_left().await
}
