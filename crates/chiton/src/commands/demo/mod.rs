//! `demo`: the main job, for real, on this machine, with nothing left afterwards.
//!
//! It runs this very program: a gateway as a child, then the commands that a user would type, each shown before it runs.
//! At the end it looks for itself whether anything is left: processes, cgroups, mounts, leases and rows.

mod leftovers;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use chiton_gateway::Plugins;
use chiton_model::Error;
use serde_json::json;

use super::doctor;
use crate::output;

const NAME: &str = "demo";
const EMBEDDED: &str = "oci";

/// A gateway of the demo's own. Ended when dropped.
struct DemoGateway {
    child: Child,
    program: PathBuf,
    socket: PathBuf,
}

impl Drop for DemoGateway {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            drop(self.child.wait());
        }
    }
}

pub(super) fn run(plugins: &Plugins, json: bool) -> ExitCode {
    // It looks for leftovers where the embedded driver would have them.
    let Some(kind) = plugins.driver_kind(EMBEDDED).or_else(|| plugins.drivers().first()) else {
        let error = Error::unavailable("driver", "no kind of driver is built in").cure("run a build that has one");
        return output::fail(&error, json);
    };
    let found = (kind.doctor)(&json!({}));
    let missing = doctor::missing(&found);
    if !missing.is_empty() {
        let message = format!("the demo cannot run on this machine yet:\n{}", missing.join("\n"));
        let error = Error::unavailable("machine", message)
            .cure("mend what is listed, then run the demo again; chiton doctor shows every check");
        return output::fail(&error, json);
    }
    // An ordinary user may have no means for it; asking all the same would be refused, and rightly.
    let memory = found.iter().any(|it| it.check == "limit memory" && it.cure.is_empty());
    match show(plugins, kind.kind, memory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error, json),
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = what.to_owned();
    move |error| Error::internal(format!("{what}: {error}"))
}

fn show(plugins: &Plugins, driver: &str, memory: bool) -> Result<(), Error> {
    let begun = Instant::now();
    let folder =
        tempfile::Builder::new().prefix("chiton-demo-").tempdir().map_err(io("a temporary folder cannot be made"))?;
    let gateway = start(plugins, driver, folder.path())?;
    let id = gateway.ask(&["config", "show"]).and_then(|_| gateway.gateway_id())?;

    say("A gateway runs, with two extensions around its driver: one labels every sandbox, one leases it an address.");
    gateway.show(&["extensions"])?;
    say("What would a create do? Nothing is stored; who wrote which value is shown, and what is known only later.");
    let limits: &[&str] = if memory { &["--memory", "128Mi", "--pids", "64"] } else { &["--pids", "64"] };
    gateway.show(&[&["plan", NAME], limits].concat())?;
    say("Create it, run something in it, and see that it is isolated.");
    gateway.show(&[&["sandbox", "create", NAME], limits].concat())?;
    gateway.show(&["sandbox", "get", NAME])?;
    gateway.show(&["sandbox", "exec", NAME, "--", "sh", "-c", "echo \"hello from $(hostname), pid $$ of $(ls -d /proc/[0-9]* | wc -l) processes\"; grep -E 'CapEff|NoNewPrivs' /proc/self/status"])?;
    let note = folder.path().join("note.txt");
    fs::write(&note, "carried in and out\n").map_err(io("a file cannot be written"))?;
    let note = note.to_string_lossy().into_owned();
    gateway.show(&["sandbox", "cp", &note, "demo:/workspace/note.txt"])?;
    gateway.show(&["sandbox", "exec", NAME, "--", "cat", "/workspace/note.txt"])?;
    say("Who set which value?");
    gateway.show_some(&["explain", NAME], &["SET BY", "extension", "request"])?;
    say("Where did the time go?");
    gateway.show(&["timeline", NAME])?;
    say("Delete it. Cleanup runs last to first, and only after the sandbox is certainly gone.");
    gateway.show(&["sandbox", "delete", NAME])?;
    gateway.show(&["obligations", "list"])?;

    say("Is anything left?");
    let found = leftovers::look(&id, folder.path())?;
    for (what, left) in &found {
        output::line(&format!("  {what:<20} {}", if left.is_empty() { "none".to_owned() } else { left.join(", ") }));
    }
    drop(gateway);
    if found.iter().any(|(_, left)| !left.is_empty()) {
        return Err(Error::internal("the demo left something behind; this is a fault of Chiton"));
    }
    output::line(&format!("\nNothing is left. The whole demo took {:.1} s.", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn say(text: &str) {
    output::line(&format!("\n# {text}"));
}

/// Starts a gateway on folders of its own.
fn start(plugins: &Plugins, driver: &str, folder: &Path) -> Result<DemoGateway, Error> {
    let program = std::env::current_exe().map_err(io("this program cannot find itself"))?;
    let config = folder.join("chiton.toml");
    let leases = folder.join("leases");
    let tables = [
        ("fleet-labels", "labels = { fleet = \"demo\" }".to_owned()),
        ("address-lease", format!("range = \"10.88.0.2-10.88.0.254\"\nfolder = {:?}", leases.to_string_lossy())),
    ];
    // Another build may have others, of which nothing is known here.
    let built = |name: &str| plugins.extensions.iter().any(|kind| kind.descriptor().name.as_str() == name);
    let tables: Vec<_> = tables.into_iter().filter(|(name, _)| built(name)).collect();
    let names: Vec<&str> = tables.iter().map(|(name, _)| *name).collect();
    let own = |(name, table): &(&str, String)| format!("\n[compute.extension.{name:?}]\n{table}\n");
    let own: String = tables.iter().map(own).collect();
    let text = format!("[compute]\ndrivers = [{driver:?}]\nextensions = {names:?}\n\n[log]\nlevel = \"warn\"\n{own}");
    fs::write(&config, text).map_err(io("the configuration cannot be written"))?;
    let data = folder.join("data");
    output::line(&format!("$ chiton gateway --config {} --data-dir {} &", config.display(), data.display()));
    let mut child = Command::new(&program)
        .arg("gateway")
        .arg("--config")
        .arg(&config)
        .arg("--data-dir")
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("the gateway cannot be started"))?;
    let errors = child.stderr.take().ok_or_else(|| Error::internal("the gateway's standard error is not there"))?;
    let gateway = DemoGateway { child, program, socket: data.join("gateway.sock") };
    let mut lines = BufReader::new(errors).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.map_err(io("the gateway's standard error cannot be read"))?;
        if line.starts_with("listening on ") {
            output::line(&line);
            // What it says from now on is shown, too.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
            return Ok(gateway);
        }
        said.push(line);
    }
    Err(Error::unavailable("gateway", format!("the gateway did not start: {}", said.join("\n"))))
}

impl DemoGateway {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("CHITON_GATEWAY", format!("unix:{}", self.socket.display())).stdin(Stdio::null());
        command
    }

    /// Shows a command and runs it.
    fn show(&self, arguments: &[&str]) -> Result<(), Error> {
        output::line(&format!("$ chiton {}", quoted(arguments)));
        let status = self.command(arguments).status().map_err(io("a command cannot be started"))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::internal(format!("chiton {} ended with {status}", quoted(arguments))))
        }
    }

    /// Shows a command and those lines of its output that hold one of the words.
    fn show_some(&self, arguments: &[&str], words: &[&str]) -> Result<(), Error> {
        output::line(&format!("$ chiton {} | grep -E '{}'", quoted(arguments), words.join("|")));
        let text = self.ask(arguments)?;
        text.lines().filter(|line| words.iter().any(|word| line.contains(word))).for_each(output::line);
        Ok(())
    }

    /// Runs a command and gives its output.
    fn ask(&self, arguments: &[&str]) -> Result<String, Error> {
        let output =
            self.command(arguments).stderr(Stdio::inherit()).output().map_err(io("a command cannot be started"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(Error::internal(format!("chiton {} ended with {}", quoted(arguments), output.status)))
        }
    }

    /// The id that everything of this gateway's carries.
    fn gateway_id(&self) -> Result<String, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("the runtime cannot start"))?;
        runtime.block_on(async {
            let address = format!("unix:{}", self.socket.display());
            let mut client = chiton_client::connect(&chiton_client::discover(Some(&address))?).await?;
            let info = client.get_info(chiton_proto::v1::GetInfoRequest {}).await;
            Ok(info.map_err(|status| chiton_client::from_status(&status))?.into_inner().gateway_id)
        })
    }
}

/// Arguments as a shell would need them.
fn quoted(arguments: &[&str]) -> String {
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=,".contains(&byte))
    };
    let quote =
        |text: &&str| if plain(text) { (*text).to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}
