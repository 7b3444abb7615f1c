//! Portable writes and what they do.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use chiton_driver::{Limit, NetworkKind, Point, PortableWrite};
use chiton_model::{ExitStatus, NetworkMode};

use crate::life::Life;
use crate::look::Output;
use crate::stage::{Stage, sandbox_id, word};
use crate::verdict::{Failure, Verdict, ensure, equal, refusal, skip, tells};

/// Skips where the driver does not advertise a point.
fn offers(life: &Life, point: Point) -> Verdict {
    let has = life.driver.capabilities().points.contains(&point);
    if has { Ok(()) } else { skip(format!("the driver advertises no point {}", point.as_str())) }
}

fn written(life: &Life, plan: &mut serde_json::Value, write: &PortableWrite) -> Verdict {
    let result = life.driver.write_portable(plan, write);
    result.map_err(|error| Failure::Refused { doing: format!("{write:?}"), error }.into())
}

/// Runs a script in a sandbox whose plan was written to.
async fn run(life: &Life, script: &str, writes: &[PortableWrite]) -> Verdict<(ExitStatus, Output)> {
    let mut plan = life.plan(&life.script(script)).await?;
    for write in writes {
        written(life, &mut plan.plan, write)?;
    }
    let valid = life.look("validate", life.driver.validate(&plan.plan)).await?;
    valid.map_err(|error| Failure::Refused { doing: format!("a plan with {writes:?}"), error })?;
    let id = sandbox_id()?;
    let call = life.prepared(plan, &id, &BTreeMap::new()).await?;
    life.create(&call).await?;
    life.start(&call).await?;
    let ended = life.ending(&id).await?;
    life.delete(&id).await?;
    Ok(ended)
}

pub(crate) async fn env_is_seen(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Env)?;
    let write = PortableWrite::Env { name: "WRITTEN".to_owned(), value: "by an extension".to_owned() };
    let script = "[ \"$WRITTEN\" = 'by an extension' ] && exit 21; exit 22";
    let (exit, output) = run(&life, script, &[write]).await?;
    equal(&format!("the exit code of a look at the variable ({})", output.shown()), &exit.code, &Some(21))?;
    equal("the exit code without the write", &run(&life, script, &[]).await?.0.code, &Some(22))?;
    stage.nothing_left().await
}

pub(crate) async fn label_and_annotation_are_on_the_object(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Label)?;
    let mut plan = life.plan(&life.sleeper()).await?;
    let text = |text: &str| text.to_owned();
    written(&life, &mut plan.plan, &PortableWrite::Label { key: text("example.com/written"), value: text("yes") })?;
    let note = word("note-");
    let annotated = offers(&life, Point::Annotation).is_ok();
    if annotated {
        let write = PortableWrite::Annotation { key: text("example.com/note"), value: note.clone() };
        written(&life, &mut plan.plan, &write)?;
    }
    let id = sandbox_id()?;
    let call = life.prepared(plan, &id, &BTreeMap::new()).await?;
    life.create(&call).await?;
    let labels = stage.bench().labels(&life.gateway, &id).await?;
    let found = labels.iter().find(|(key, _)| key == "example.com/written").map(|(_, value)| value.as_str());
    equal("the written label", &found, &Some("yes"))?;
    if annotated {
        let shown = stage.bench().exposed(&life.gateway, &id).await?;
        ensure(shown.contains(&note), "the object", "the written annotation", "an object without it")?;
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}

/// A host folder with one file that everybody may read; gone with the value.
struct Shown(PathBuf);

impl Shown {
    fn new(text: &str) -> Verdict<Self> {
        let path = std::env::temp_dir().join(word("chiton-suite-"));
        let make = || {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            std::fs::write(path.join("word"), text)?;
            std::fs::set_permissions(path.join("word"), std::fs::Permissions::from_mode(0o644))
        };
        make().map_err(|error: std::io::Error| Failure::bench("make a folder to show", error))?;
        Ok(Self(path))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // A temporary folder; the machine's own cleaning takes what this cannot.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) async fn mount_is_shown(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Mount)?;
    let shown = Shown::new("from the host")?;
    let source = shown.0.to_string_lossy().into_owned();
    let mount = |read_only| PortableWrite::Mount { source: source.clone(), target: "/shown".to_owned(), read_only };
    let read = "[ \"$(cat /shown/word)\" = 'from the host' ] || exit 30; ";
    let script = format!("{read} if (echo x > /shown/new) 2> /dev/null; then exit 31; fi; exit 32");
    let (exit, output) = run(&life, &script, &[mount(true)]).await?;
    equal(&format!("the exit code with a read-only mount ({})", output.shown()), &exit.code, &Some(32))?;
    ensure(!shown.0.join("new").exists(), "a read-only mount", "no new file", "one that was written")?;
    // The same twice is one mount.
    let (exit, output) = run(&life, &format!("{read} exit 33"), &[mount(true), mount(true)]).await?;
    equal(&format!("the exit code with the same mount twice ({})", output.shown()), &exit.code, &Some(33))?;
    let mut plan = life.plan(&life.sleeper()).await?.plan;
    let bad = PortableWrite::Mount { source, target: "/proc".to_owned(), read_only: true };
    let refused = match life.driver.write_portable(&mut plan, &bad) {
        Ok(()) => life.look("validate", life.driver.validate(&plan)).await?,
        refused => refused,
    };
    tells(&refusal("a mount over /proc", refused)?, &["/proc"])?;
    stage.nothing_left().await
}

pub(crate) async fn missing_source_is_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Mount)?;
    let source = format!("/{}", word("no-such-folder-"));
    let mount = PortableWrite::Mount { source: source.clone(), target: "/shown".to_owned(), read_only: true };
    let mut plan = life.plan(&life.sleeper()).await?.plan;
    let refused = match life.driver.write_portable(&mut plan, &mount) {
        Ok(()) => life.look("validate", life.driver.validate(&plan)).await?,
        refused => refused,
    };
    // Engines make the folder when they are not told otherwise, and the mistake is never seen.
    tells(&refusal("a mount of what is not there", refused)?, &[&source])?;
    ensure(!std::path::Path::new(&source).exists(), "the missing source", "missing still", "made")
}

pub(crate) async fn device_is_shown(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Device)?;
    let usable = |path: &&str| {
        std::fs::metadata(path)
            .is_ok_and(|found| found.file_type().is_char_device() && found.permissions().mode() & 6 == 6)
    };
    let Some(path) = ["/dev/fuse", "/dev/net/tun", "/dev/kvm", "/dev/vsock"].into_iter().find(usable) else {
        return skip("this machine has no device that everybody may use");
    };
    let script = format!("[ -c {path} ] && exit 40; exit 41");
    let (exit, output) = run(&life, &script, &[PortableWrite::Device { path: path.to_owned() }]).await?;
    equal(&format!("the exit code with {path} ({})", output.shown()), &exit.code, &Some(40))?;
    equal(&format!("the exit code without {path}"), &run(&life, &script, &[]).await?.0.code, &Some(41))?;
    stage.nothing_left().await
}

pub(crate) async fn resource_is_applied(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Resource)?;
    let mut plan = life.plan(&life.sleeper()).await?.plan;
    let before = plan.clone();
    for quantity in ["", "12 bananas", "-1", "1.5.2", "Mi", "0", "nan"] {
        let write = PortableWrite::Resource { name: "memory".to_owned(), quantity: quantity.to_owned() };
        let error = refusal(&format!("{write:?}"), life.driver.write_portable(&mut plan, &write))?;
        tells(&error, &[])?;
        equal("the plan after a refused write", &plan, &before)?;
    }
    let unknown = PortableWrite::Resource { name: "memry".to_owned(), quantity: "64Mi".to_owned() };
    tells(&refusal("an unknown resource", life.driver.write_portable(&mut plan, &unknown))?, &["memory"])?;
    life.limits(Limit::Pids)?;
    let write = PortableWrite::Resource { name: "pids".to_owned(), quantity: "24".to_owned() };
    written(&life, &mut plan, &write)?;
    if let Err(error) = life.look("validate", life.driver.validate(&plan)).await? {
        tells(&error, &["pids"])?;
        return skip(format!("refused here: {error}"));
    }
    let (exit, output) = run(&life, super::limit::FORKS, &[write]).await?;
    super::limit::ran_out_of_pids(&exit, &output)?;
    stage.nothing_left().await
}

pub(crate) async fn network_address_is_checked(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Network)?;
    let mut request = life.sleeper();
    if life.driver.capabilities().networks.contains(&NetworkKind::Bridge) {
        request.network.mode = NetworkMode::Bridge;
    }
    let Ok(plan) = life.look("default_plan", life.driver.default_plan(&request)).await? else {
        return skip("the driver refuses a network here, so that there is no address to write");
    };
    for address in ["not an address", "10.0.0.256", "10.0.0.1/8", ""] {
        let mut plan = plan.plan.clone();
        let write = PortableWrite::Network { address: address.to_owned() };
        let refused = match life.driver.write_portable(&mut plan, &write) {
            Ok(()) => life.look("validate", life.driver.validate(&plan)).await?,
            refused => refused,
        };
        tells(&refusal(&format!("{write:?}"), refused)?, &[])?;
    }
    stage.nothing_left().await
}

pub(crate) async fn text_arrives_as_it_is(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offers(&life, Point::Label)?;
    let values = ["ü 漢字 🦀", "tab\tline\nreturn\r", "\u{1b}[31m\u{7f}\u{1}", "'\"\\$HOME `id` {{.}}", "", " = "];
    let long = "x".repeat(4096);
    for value in values.into_iter().chain([long.as_str()]) {
        let write = PortableWrite::Label { key: "example.com/text".to_owned(), value: value.to_owned() };
        let mut plan = life.plan(&life.sleeper()).await?;
        let refused = match life.driver.write_portable(&mut plan.plan, &write) {
            Ok(()) => life.look("validate", life.driver.validate(&plan.plan)).await?,
            refused => refused,
        };
        if let Err(error) = refused {
            tells(&error, &["example.com/text"])?;
            continue;
        }
        let id = sandbox_id()?;
        let call = life.prepared(plan, &id, &BTreeMap::new()).await?;
        life.create(&call).await?;
        let labels = stage.bench().labels(&life.gateway, &id).await?;
        let found = labels.iter().find(|(key, _)| key == "example.com/text").map(|(_, value)| value.as_str());
        equal("the label", &found, &Some(value))?;
        let listed = life.list().await?;
        equal("the list with such a label", &listed.iter().map(|it| &it.id).collect::<Vec<_>>(), &vec![&id])?;
        life.delete(&id).await?;
    }
    stage.nothing_left().await
}
