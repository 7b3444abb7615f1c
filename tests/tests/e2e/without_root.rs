//! A gateway of an ordinary user: started with no configuration at all, it does everything, and leaves nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;

use serde_json::Value;

use crate::harness::terminal::Terminal;
use crate::harness::user::USERS;
use crate::harness::{Output, PROGRAM, Share, root, share};
use crate::images::made;

/// A throw-away user with a home.
struct User {
    name: String,
    folder: tempfile::TempDir,
    gateway: Option<Child>,
}

impl User {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("chiton-home-").tempdir().expect("a folder");
        let tail = folder.path().to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let name = format!("che{}", tail[tail.len() - 6..].to_lowercase());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let home = folder.path().join("home");
        let one = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Command::new("useradd").args(["--create-home", "--home-dir"]).arg(&home).arg(&name).output();
        drop(one);
        assert!(made.as_ref().is_ok_and(|output| output.status.success()), "{made:?}");
        let stripped =
            Command::new("strip").arg("-g").arg("-o").arg(folder.path().join("chiton")).arg(PROGRAM).status();
        if !stripped.is_ok_and(|status| status.success()) {
            // By another process: a copy that this one writes cannot be executed while any child of another test's has
            // inherited the open file.
            let copied = Command::new("cp").arg(PROGRAM).arg(folder.path().join("chiton")).status();
            assert!(copied.is_ok_and(|status| status.success()), "the user has no program to run");
        }
        Self { name, folder, gateway: None }
    }

    /// Takes the range of ids away that the system may have granted with the user.
    fn take_range(&self) {
        let _one = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, remove) in [("/etc/subuid", "--del-subuids"), ("/etc/subgid", "--del-subgids")] {
            let text = fs::read_to_string(file).unwrap_or_default();
            let Some(range) = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", self.name))) else {
                continue;
            };
            let (first, count) = range.split_once(':').expect("a range");
            let (first, count): (u64, u64) = (first.parse().expect("an id"), count.parse().expect("a number"));
            let range = format!("{first}-{}", first + count - 1);
            let done = Command::new("usermod").args([remove, &range, &self.name]).output();
            assert!(done.as_ref().is_ok_and(|output| output.status.success()), "{done:?}");
        }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The program as this user runs it after `su`: with a home and nothing else.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runuser");
        command.args(["-u", &self.name, "--"]).arg(self.folder.path().join("chiton")).args(arguments);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.home())
            .current_dir(self.home());
        command
    }

    fn begin(&mut self) {
        let mut child = self
            .command(&["gateway"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let mut said = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.starts_with("listening on ") => break,
                Some(Ok(line)) => said.push(line),
                _ => panic!("the gateway did not start:\n{}", said.join("\n")),
            }
        }
        // What it says from here on is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        self.gateway = Some(child);
    }

    /// Ends the gateway: by SIGKILL, as a crash would, or by asking it.
    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.gateway.take() else { return };
        // Of runuser and the program below it, the program is meant.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let below = fs::read_to_string(children).expect("its children");
        let ended = Command::new("kill").args(["-s", signal]).args(below.split_whitespace()).status();
        assert!(ended.is_ok_and(|status| status.success()));
        drop(child.wait());
    }

    fn chiton(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        let inner = self.command(arguments);
        // Longer than anything takes: a demo is much at once.
        command.arg("180").arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.home()).current_dir(self.home());
        let output = command.stdin(Stdio::null()).output().expect("an output");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What is left of the user: processes outside of zombies, and files of sandboxes.
    fn left(&self) -> Vec<String> {
        let listed = Command::new("ps").args(["-o", "pid=,stat=,args=", "-u", &self.name]).output().expect("ps");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut left: Vec<String> = text
            .lines()
            .filter(|line| !line.split_whitespace().nth(1).is_some_and(|state| state.starts_with('Z')))
            .map(str::to_owned)
            .collect();
        let state = self.home().join(".local/share/chiton/drivers/oci/sandboxes");
        left.extend(
            fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = self.folder.path().to_string_lossy().into_owned();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        left
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.gateway.is_some() {
            self.end("KILL");
        }
        if std::thread::panicking() {
            // What a failed test left would keep the user from being removed.
            let end = "for pid in $(pgrep -u \"$0\"); do kill -9 $pid; done";
            drop(Command::new("sh").args(["-c", end, &self.name]).status());
        }
        let one = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = Command::new("userdel").arg(&self.name).output();
        drop(one);
        if !std::thread::panicking() {
            assert!(removed.as_ref().is_ok_and(|output| output.status.success()), "{removed:?}");
        }
    }
}

#[test]
fn an_ordinary_user_does_everything_without_any_setting_and_leaves_nothing() {
    if !root() || !Path::new("/usr/sbin/useradd").exists() {
        return;
    }
    let _share = share(Share::Part);
    let mut user = User::new();
    user.begin();
    let socket = user.home().join(".local/state/chiton/run/gateway.sock");
    assert!(socket.exists(), "{} is not there", socket.display());
    user.chiton(&["doctor"]).ok();

    user.chiton(&["sandbox", "create", "box", "--pids", "64"]).ok();
    let said = user.chiton(&["sandbox", "exec", "box", "--", "sh", "-c", "id -u; echo kept > /workspace/kept"]).ok();
    assert_eq!(said, "0\n");
    let got: Value = serde_json::from_str(&user.chiton(&["--json", "sandbox", "get", "box"]).ok()).expect("JSON");
    let text = got.to_string();
    assert!(text.contains("PartlyEnforced") && text.contains("cannot be limited"), "{text}");

    let refused = user.chiton(&["sandbox", "create", "fat", "--memory", "64Mi"]).refused();
    assert!(refused.contains("resources.memory") && refused.contains("Delegate=yes"), "{refused}");

    let note = user.home().join("note");
    fs::write(&note, "in and out\n").expect("a file");
    fs::set_permissions(&note, fs::Permissions::from_mode(0o644)).expect("its mode");
    user.chiton(&["sandbox", "cp", &note.to_string_lossy(), "box:/workspace/note"]).ok();
    user.chiton(&["sandbox", "cp", "box:/workspace/note", "back"]).ok();
    assert_eq!(fs::read_to_string(user.home().join("back")).expect("the copy"), "in and out\n");

    user.chiton(&["sandbox", "create", "talker", "--", "sh", "-c", "echo said; sleep 1000"]).ok();
    // Ready is before the main process's first word.
    let begin = std::time::Instant::now();
    while !user.chiton(&["sandbox", "logs", "talker"]).ok().contains("said") {
        assert!(begin.elapsed() < std::time::Duration::from_mins(1), "the log stays empty");
    }

    // Sandboxes outlive the gateway, and the next one goes on with them.
    user.end("KILL");
    user.begin();
    // Its agent dials again by itself.
    let begin = std::time::Instant::now();
    while user.chiton(&["sandbox", "exec", "box", "--", "true"]).code != 0 {
        assert!(begin.elapsed() < std::time::Duration::from_mins(1), "the sandbox's agent does not come back");
    }
    assert_eq!(user.chiton(&["sandbox", "exec", "box", "--", "cat", "/workspace/kept"]).ok(), "kept\n");
    user.chiton(&["sandbox", "stop", "box"]).ok();
    user.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(user.chiton(&["sandbox", "exec", "box", "--", "cat", "/workspace/kept"]).ok(), "kept\n");
    user.chiton(&["sandbox", "delete", "box"]).ok();
    user.chiton(&["sandbox", "delete", "talker"]).ok();
    user.end("TERM");
    let left = user.left();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn the_demo_runs_for_an_ordinary_user() {
    if !root() || !Path::new("/usr/sbin/useradd").exists() {
        return;
    }
    let _share = share(Share::Part);
    let user = User::new();
    let said = user.chiton(&["demo"]).ok();
    assert!(said.contains("Nothing is left."), "{said}");
    let left = user.left();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Images, volumes, limits of the disk, networks, terminals and copies, as far as an ordinary user can have them.
fn the_rest_of_it(mut user: User) {
    user.begin();
    let put = |name: &str| user.folder.path().join(name);
    let layout = format!("oci:{}:1", made("of a layout", "").layout(&put("layout"), "1").display());
    made("of an archive", "0:0").saved(&put("saved.tar"), "note:1");
    let archive = format!("tar:{}", put("saved.tar").display());
    let app = format!("oci:{}:1", made("of app", "app").layout(&put("app"), "1").display());
    let sh = |name: &str, script: &str| user.chiton(&["sandbox", "exec", name, "--", "sh", "-c", script]);

    // Two sandboxes of images, one after the other from each kind of place, with the same volume at once.
    user.chiton(&["sandbox", "create", "one", "--image", &layout, "--volume", "work:/srv/work"]).ok();
    let said = sh("one", "id -u; pwd; cat /note; echo; touch /bin/new && echo kept > /srv/work/note; stat -c %u /note");
    assert_eq!(said.ok(), "0\n/srv/app\nof a layout\n0\n");
    user.chiton(&["sandbox", "create", "two", "--image", &archive, "--volume", "work:/data"]).ok();
    let said =
        sh("two", "cat /note; echo; cat /data/note; stat -c %u /data/note; echo more >> /data/note; ls /bin/new 2>&1");
    assert!(said.stdout.starts_with("of an archive\nkept\n0\n"), "{said:?}");
    assert_ne!(said.code, 0, "a layer that one sandbox writes to is not the other's: {said:?}");
    assert_eq!(sh("one", "cat /srv/work/note").ok(), "kept\nmore\n");
    // The machine's own programs, read-only, with the same volume.
    user.chiton(&["sandbox", "create", "three", "--volume", "work:/data:ro"]).ok();
    let said = sh("three", "cat /data/note; touch /data/x 2>&1 || echo refused");
    assert!(said.stdout.starts_with("kept\nmore\n") && said.stdout.ends_with("refused\n"), "{said:?}");

    // A sandbox's image goes on after its gateway, and after a stop.
    user.end("KILL");
    user.begin();
    let sh = |name: &str, script: &str| user.chiton(&["sandbox", "exec", name, "--", "sh", "-c", script]);
    user.chiton(&["sandbox", "stop", "one"]).ok();
    user.chiton(&["sandbox", "start", "one"]).ok();
    assert_eq!(sh("one", "cat /note /srv/work/note; [ -e /bin/new ] && echo new").ok(), "of a layoutkept\nmore\nnew\n");

    // A terminal, and copies in both directions, where an image is the root.
    let script = "[ -t 0 ] && [ -t 1 ] && echo a terminal; read line; echo got $line; exit 7";
    let mut terminal =
        Terminal::run(user.command(&["sandbox", "exec", "-it", "one", "--", "sh", "-c", script]), 40, 100);
    terminal.until("a terminal\r\n");
    terminal.type_in("typed\r");
    let (code, shown) = terminal.end();
    assert!(code == Some(7) && shown.ends_with("got typed\r\n"), "{code:?} {shown:?}");
    fs::write(user.home().join("in"), "in and out\n").expect("a file");
    fs::set_permissions(user.home().join("in"), fs::Permissions::from_mode(0o644)).expect("its mode");
    user.chiton(&["sandbox", "cp", "in", "one:/srv/work/in"]).ok();
    user.chiton(&["sandbox", "cp", "two:/data/in", "back"]).ok();
    assert_eq!(fs::read_to_string(user.home().join("back")).expect("the copy"), "in and out\n");

    // A disk in memory when it was asked for; it is full at its limit.
    let memory: &[&str] = &["--driver", "oci", "--driver-config", "{\"disk\": \"memory\"}"];
    user.chiton(&[&["sandbox", "create", "disk", "--disk", "16Mi"], memory].concat()).ok();
    let full = sh("disk", "head -c 32M /dev/zero > /workspace/x; stat -c %s /workspace/x");
    assert!(full.stderr.contains("No space left on device"), "{full:?}");
    assert!(full.stdout.trim().parse::<u64>().is_ok_and(|size| size <= 16 << 20), "{full:?}");

    // What cannot be had is refused, with what to do, and leaves nothing.
    for (arguments, wanted) in [
        (&["--image", &app][..], &["1234:2345", "the id 0 alone", "USER 0", "gateway as root"][..]),
        (&["--network", "bridge"], &["only be made by root", "network none"]),
        (&["--disk", "64Mi"], &["needs root", "disk = \"memory\""]),
        (&["--cpu", "500m"], &["resources.cpu", "Delegate=yes"]),
    ] {
        let refused = user.chiton(&[&["sandbox", "create", "refused"], arguments].concat()).refused();
        assert!(wanted.iter().all(|wanted| refused.contains(wanted)), "{arguments:?}: {refused}");
    }
    let refused = user.chiton(&["volume", "create", "sized", "--size", "16Mi"]).refused();
    assert!(refused.contains("needs root") && refused.contains("leave its size out"), "{refused}");

    let refused = user.chiton(&["volume", "delete", "work"]).refused();
    assert!(refused.contains("used by"), "{refused}");
    for name in ["one", "two", "three", "disk"] {
        user.chiton(&["sandbox", "delete", name]).ok();
    }
    let listed: Value = serde_json::from_str(&user.chiton(&["--json", "sandbox", "list"]).ok()).expect("JSON");
    // An image's user is known when its layers are there: such a create was begun, and its row says why it failed.
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed:#}");
    assert!(listed[0]["failure"].as_str().is_some_and(|failure| failure.contains("USER 0")), "{listed:#}");
    user.chiton(&["volume", "delete", "work"]).ok();
    user.chiton(&["image", "prune", "--older-than", "1ms"]).ok();
    user.end("TERM");
    let left = user.left();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn an_ordinary_user_has_images_volumes_terminals_and_copies() {
    if root() && Path::new("/usr/sbin/useradd").exists() {
        let _share = share(Share::Part);
        the_rest_of_it(User::new());
    }
}

#[test]
fn an_ordinary_user_without_a_range_of_ids_has_them_too() {
    if root() && Path::new("/usr/sbin/useradd").exists() {
        let _share = share(Share::Part);
        let user = User::new();
        user.take_range();
        the_rest_of_it(user);
    }
}
