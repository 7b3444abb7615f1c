//! System calls and paths, tried for real in sandboxes.

#[path = "../common/mod.rs"]
mod common;
mod everyday;
mod plans;
mod refused;
mod tightened;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use chiton_confine::Arch;
use chiton_driver::{ComputeDriver, PortableWrite};
use chiton_driver_oci::OciDriver;
use chiton_model::{ExitStatus, SandboxId};
use common::{World, exit, fill, output, request, sandbox_id};
use serde_json::Value;

/// What came of a call: an error's number, 0 for none, or the signal that ended the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Errno(i32),
    Signal(i32),
}

const EPERM: Came = Came::Errno(libc::EPERM);
const ENOSYS: Came = Came::Errno(libc::ENOSYS);
const DONE: Came = Came::Errno(0);

/// Builds the probe, statically, so that it runs in any root.
fn probe(world: &World) -> PathBuf {
    let folder = world.folder.path().join("programs");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/probe.c");
    let program = folder.join("probe");
    let built =
        Command::new("cc").args(["-O1", "-static", "-Wall", "-Werror", "-o"]).arg(&program).arg(source).status();
    assert!(built.expect("package gcc is installed").success());
    folder
}

/// A call by name: `"clone:0x10000011"`; the name may have a suffix after `#` to tell several apart.
fn word(call: &str) -> String {
    let (label, args) = call.split_once(':').unwrap_or((call, ""));
    let name = label.split('#').next().unwrap();
    let number = Arch::current().unwrap().syscall(name).unwrap_or_else(|| panic!("{name} is not known here"));
    if args.is_empty() { format!("{label}:{number}") } else { format!("{label}:{number}:{args}") }
}

fn read(text: &str) -> BTreeMap<String, Came> {
    let lines = text.lines().map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [label, "errno", number] => ((*label).to_owned(), Came::Errno(number.parse().unwrap())),
        [label, "signal", number] => ((*label).to_owned(), Came::Signal(number.parse().unwrap())),
        _ => panic!("the probe said {line:?} in {text}"),
    });
    lines.collect()
}

/// Makes the calls in a sandbox with these options.
async fn calls(driver: &OciDriver, folder: &Path, config: &Value, words: &[String]) -> BTreeMap<String, Came> {
    let mut command = vec!["/probe/probe"];
    command.extend(words.iter().map(String::as_str));
    let (status, text) = run_with(driver, Some(folder), config, &command).await;
    assert_eq!(status.code, Some(0), "{text}");
    let came = read(&text);
    assert_eq!(came.len(), words.len(), "{text}");
    came
}

/// Runs a command in a sandbox of the host image, with a folder shown at `/probe`.
async fn run_with(driver: &OciDriver, folder: Option<&Path>, config: &Value, command: &[&str]) -> (ExitStatus, String) {
    let id = sandbox_id();
    started_with(driver, folder, config, command, &id).await;
    let text = output(driver, &id).await;
    let status = exit(driver, &id).await;
    driver.delete(&id).await.unwrap();
    (status, text)
}

async fn started_with(driver: &OciDriver, folder: Option<&Path>, config: &Value, command: &[&str], id: &SandboxId) {
    let mut request = request("host", command);
    request.driver_config = config.clone();
    let mut plan = driver.default_plan(&request).await.unwrap().plan;
    if let Some(folder) = folder {
        let source = folder.display().to_string();
        let mount = PortableWrite::Mount { source, target: "/probe".to_owned(), read_only: true };
        driver.write_portable(&mut plan, &mount).unwrap();
    }
    driver.validate(&plan).await.unwrap();
    let call = fill(plan, id);
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
}
