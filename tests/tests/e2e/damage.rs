//! A disk that is full, a store that is damaged, copied or put back, a gateway without descriptors: through the real
//! program, with real sandboxes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Gateway, PROGRAM, Share, root};

const CONFIG: &str = r#"
[compute]
extensions = ["fault", "address-lease"]
[compute.extension."fault"]
folder = "{folder}"
[compute.extension."address-lease"]
range = "10.89.0.2-10.89.0.254"
folder = "{folder}/leases"
"#;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

/// The doctor's finding about one thing.
fn finding(gateway: &Gateway, check: &str) -> Value {
    let output = gateway.chiton(&["--json", "doctor", "--data-dir", &data(gateway)]);
    let report: Value = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(output.code == 0, report["ok"] == true, "{report:#}");
    let found = report["store"].as_array().expect("findings").iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("nothing about {check}: {report:#}")).clone()
}

fn data(gateway: &Gateway) -> String {
    gateway.path("data").display().to_string()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The verdicts of what no sandbox owns, by id.
fn orphans(gateway: &Gateway) -> Vec<(String, String)> {
    let list = gateway.json(&["orphans", "list"]);
    let of = |row: &Value| (text(row, "id").to_owned(), text(row, "verdict").to_owned());
    list.as_array().expect("a list").iter().map(of).collect()
}

/// Deletes everything that the store knows. A store that is moved to another disk begins a new life there, and would hold
/// it.
fn empty(gateway: &Gateway) {
    gateway.until_idle();
    for row in gateway.json(&["sandbox", "list", "--all"]).as_array().expect("a list") {
        let id = text(row, "id");
        gateway.chiton(&["sandbox", "delete", "--id", id]).ok();
        gateway.until(id, |sandbox| sandbox.is_none());
    }
    for row in gateway.json(&["workspaces", "list"]).as_array().expect("a list") {
        gateway.chiton(&["workspaces", "delete", text(row, "name")]).ok();
    }
}

/// A folder that is a small disk, until this is dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).expect("a folder");
        let options = format!("size={size},mode=0700");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).status();
        assert!(status.expect("mount").success(), "no small disk at {at:?}");
        Self(at)
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("a file");
        for size in [65_536, 4096, 1] {
            let bytes = vec![0x55; size];
            while file.write(&bytes).is_ok_and(|written| written > 0) {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn on_a_full_disk_creates_are_refused_reads_go_on_and_with_room_everything_works_again() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    gateway.terminate();
    // The store alone is on the small disk: what is full is the disk that records.
    let store = gateway.path("data/store");
    fs::rename(&store, gateway.path("aside")).expect("moved");
    let disk = Disk::mount(store.clone(), "2m");
    let copied =
        Command::new("cp").arg("-a").arg(format!("{}/.", gateway.path("aside").display())).arg(&store).status();
    assert!(copied.expect("cp").success());
    gateway.begin();
    gateway.json(&["sandbox", "create", "kept"]);
    disk.fill();
    let refused = (0..50).find_map(|number| {
        let output = gateway.chiton(&["sandbox", "create", &format!("box-{number}"), "--no-wait"]);
        (output.code != 0).then_some(output.stderr)
    });
    let refused = refused.expect("a create for which there is no room");
    assert!(refused.contains("no room is left") && refused.contains("make room"), "{refused}");
    assert_eq!(gateway.get("kept")["phase"], "Ready");
    assert_eq!(gateway.shell("kept", "echo here").ok(), "here\n");
    assert_eq!(finding(&gateway, "room")["state"], "nearly_full");
    disk.free();
    gateway.until_idle();
    gateway.json(&["sandbox", "create", "after"]);
    assert_eq!(gateway.shell("after", "echo here").ok(), "here\n");
    empty(&gateway);
    assert_eq!(orphans(&gateway), [], "what was refused left nothing");
    gateway.terminate();
    let moved = Command::new("cp").arg("-a").arg(format!("{}/.", store.display())).arg(gateway.path("aside")).status();
    assert!(moved.expect("cp").success());
    drop(disk);
    fs::remove_dir(&store).expect("the mount point");
    fs::rename(gateway.path("aside"), &store).expect("moved back");
}

#[test]
fn a_damaged_database_is_refused_with_file_what_and_cure_and_a_backup_puts_it_right() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    let id = text(&gateway.json(&["sandbox", "create", "kept"]), "id").to_owned();
    let saved = gateway.path("saved");
    let made = gateway.json(&["backup", path(&saved)]);
    assert_eq!(made["manifest"]["sandboxes"], 1, "{made:#}");
    let old = text(&made["manifest"], "epoch").to_owned();
    gateway.kill();
    // What was committed is in the write-ahead log, and a bit of that rots: SQLite by itself would go back to before.
    let (database, log) = (gateway.path("data/store/chiton.db"), gateway.path("data/store/chiton.db-wal"));
    let mut bytes = fs::read(&log).expect("the write-ahead log");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).expect("spoilt");
    let refused = gateway.try_begin().expect_err("a damaged store was served");
    for part in [path(&database), "damaged", "chiton restore"] {
        assert!(refused.contains(part), "{part} is not in {refused}");
    }
    let found = finding(&gateway, "database");
    assert_eq!((text(&found, "state"), text(&found, "level")), ("damaged", "bad"), "{found:#}");
    let folder = data(&gateway);
    let plain = gateway.chiton(&["restore", path(&saved), "--data-dir", &folder]).refused();
    assert!(plain.contains("holds a store already") && plain.contains("--replace"), "{plain}");
    gateway.json(&["restore", path(&saved), "--data-dir", &folder, "--replace"]);
    gateway.begin_with(&["--adopt-epoch", &old]);
    assert_eq!(gateway.get("kept")["id"], json!(id));
    gateway.until(&id, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Ready"));
    gateway.chiton(&["sandbox", "delete", "kept"]).ok();
}

#[test]
fn after_a_restore_nothing_that_lives_is_swept_and_everything_can_be_cleaned_up() {
    if !root() {
        return;
    }
    let config = format!("{CONFIG}\n[sweep]\ninterval = \"1s\"\ngrace = \"1s\"\n");
    let mut gateway = Gateway::start(&config);
    let created = |gateway: &Gateway, name: &str| text(&gateway.json(&["sandbox", "create", name]), "id").to_owned();
    let (a, stays) = (created(&gateway, "a"), created(&gateway, "stays"));
    let saved = gateway.path("saved");
    let made = gateway.json(&["backup", path(&saved)]);
    let old = text(&made["manifest"], "epoch").to_owned();
    let b = created(&gateway, "b");
    gateway.chiton(&["sandbox", "delete", "a"]).ok();
    gateway.until(&a, |sandbox| sandbox.is_none());
    let folder = data(&gateway);
    let held = gateway.chiton(&["restore", path(&saved), "--data-dir", &folder, "--replace"]).refused();
    assert!(held.contains("in use by process"), "{held}");
    gateway.terminate();
    let restored = gateway.json(&["restore", path(&saved), "--data-dir", &folder, "--replace"]);
    assert_ne!(text(&restored, "epoch"), old);
    gateway.begin();
    assert_eq!(gateway.json(&["info"])["epoch"], restored["epoch"]);
    // Several sweeps, each of which finds the same.
    let verdicts = |gateway: &Gateway| {
        let mut found = orphans(gateway);
        found.sort();
        found
    };
    let mut expected = vec![(b.clone(), "unowned".to_owned()), (stays.clone(), "other_epoch".to_owned())];
    expected.sort();
    assert_eq!(verdicts(&gateway), expected);
    gateway.until_said(3, "an object that no sandbox owns");
    assert_eq!(verdicts(&gateway), expected, "swept: {}", gateway.said());
    // Held, both the one that is there and the one that is gone; and told why.
    for name in ["a", "stays"] {
        let said = gateway.chiton(&["sandbox", "stop", name]).refused();
        assert!(said.contains("is held") && said.contains(&old), "{said}");
    }
    assert_eq!(
        finding(&gateway, "held")["detail"],
        json!(format!("2 sandboxes and 1 workspaces belong to epoch {old} and are held: nothing touches them"))
    );
    gateway.terminate();
    let refused =
        gateway.try_begin_with(&["--adopt-epoch", "e-00000000000000000000000000"]).expect_err("no such epoch");
    assert!(refused.contains(&format!("{old} (2 sandboxes, 1 workspaces)")), "{refused}");
    gateway.begin_with(&["--adopt-epoch", &old]);
    // The one that was deleted after the backup does not run: that is seen, and it can be deleted like any other.
    gateway.until(&a, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase != "Ready"));
    gateway.until_reached("stays");
    assert_eq!(gateway.shell("stays", "echo here").ok(), "here\n");
    assert_eq!(orphans(&gateway), [(b.clone(), "unowned".to_owned())]);
    gateway.chiton(&["orphans", "delete", "oci", &b]).ok();
    for (name, id) in [("a", &a), ("stays", &stays)] {
        gateway.chiton(&["sandbox", "delete", name]).ok();
        gateway.until(id, |sandbox| sandbox.is_none());
    }
    assert_eq!(orphans(&gateway), []);
    // B's record went with the store that was replaced: its effects are its extensions' to free.
    for name in gateway.entries("effects").iter().filter(|name| name.starts_with(&b)) {
        fs::remove_file(gateway.path("effects").join(name)).expect("an effect");
    }
    for name in gateway.entries("leases") {
        let lease = gateway.path("leases").join(name);
        if fs::read_to_string(&lease).is_ok_and(|holder| holder == b) {
            fs::remove_file(lease).expect("a lease");
        }
    }
}

#[test]
fn a_copied_data_folder_holds_what_the_original_made_and_the_original_goes_on() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    let id = text(&gateway.json(&["sandbox", "create", "kept"]), "id").to_owned();
    let epoch = gateway.json(&["info"])["epoch"].clone();
    gateway.terminate();
    let (store, original) = (gateway.path("data/store"), gateway.path("data/original"));
    fs::rename(&store, &original).expect("moved");
    let copied = Command::new("cp").arg("-a").args([&original, &store]).status();
    assert!(copied.expect("cp").success());
    assert_eq!(finding(&gateway, "life")["state"], "copied");
    gateway.begin();
    assert_ne!(gateway.json(&["info"])["epoch"], epoch);
    assert_eq!(orphans(&gateway), [(id.clone(), "other_epoch".to_owned())]);
    let said = gateway.chiton(&["sandbox", "delete", "kept"]).refused();
    assert!(said.contains("is held"), "{said}");
    gateway.terminate();
    fs::remove_dir_all(&store).expect("the copy");
    fs::rename(&original, &store).expect("moved back");
    gateway.begin();
    assert_eq!(gateway.json(&["info"])["epoch"], epoch);
    gateway.until_reached("kept");
    assert_eq!(gateway.shell("kept", "echo here").ok(), "here\n", "nothing touched it");
}

#[test]
fn a_backup_without_a_gateway_needs_none_and_one_for_another_user_is_refused() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(&format!("[gateway]\nallow_uids = [65534]\n{CONFIG}"));
    gateway.json(&["sandbox", "create", "kept"]);
    let saved = gateway.path("saved");
    let folder = data(&gateway);
    // Somebody who may use the gateway may not have everybody's records.
    for (at, mode) in [(gateway.folder(), 0o777), (&gateway.path("data"), 0o711)] {
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("a way in");
    }
    let other = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(PROGRAM)
        .args(["--gateway", &format!("unix:{folder}/gateway.sock"), "backup", path(&gateway.path("theirs"))])
        .env_clear()
        .output()
        .expect("another user");
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("holds the records of all callers"), "{said}");
    assert!(!gateway.path("theirs").exists());
    gateway.terminate();
    let made = gateway.json(&["backup", path(&saved), "--data-dir", &folder]);
    assert_eq!(made["manifest"]["sandboxes"], 1);
    // With a gateway at work the same command goes through it.
    gateway.begin();
    let again = gateway.json(&["backup", path(&saved), "--data-dir", &folder]);
    assert_eq!(again["manifest"]["epoch"], made["manifest"]["epoch"]);
    assert_ne!(again["manifest"]["sha256"], made["manifest"]["sha256"], "a start and a backup later");
    let nobody = gateway.chiton(&["--gateway", "unix:/nonexistent/socket", "backup", path(&saved)]).refused();
    assert!(nobody.contains("no gateway runs at"), "{nobody}");
    gateway.chiton(&["sandbox", "delete", "kept"]).ok();
}

#[test]
fn a_read_only_data_folder_is_refused_as_such() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    gateway.terminate();
    let store = gateway.path("data/store");
    let mount = |arguments: &[&str]| {
        assert!(Command::new("mount").args(arguments).arg(&store).status().expect("mount").success());
    };
    mount(&["--bind", path(&store)]);
    let mounted = Disk(store.clone());
    mount(&["-o", "remount,bind,ro"]);
    let refused = gateway.try_begin().expect_err("it started on a read-only disk");
    assert!(refused.contains("Read-only file system") && refused.contains("mount it writable"), "{refused}");
    assert_eq!(finding(&gateway, "room")["state"], "read_only");
    drop(mounted);
    gateway.begin();
}

#[test]
fn without_descriptors_the_gateway_neither_ends_nor_spins_and_works_again() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::sharing(CONFIG, Share::Whole);
    gateway.terminate();
    gateway.limit_files(Some(96));
    gateway.begin();
    let socket = gateway.path("data/gateway.sock");
    let (begin, before) = (Instant::now(), gateway.cpu_time());
    // More connections than it has descriptors; the kernel queues the rest.
    let hogs: Vec<_> = (0..120).map_while(|_| std::os::unix::net::UnixStream::connect(&socket).ok()).collect();
    assert!(hogs.len() > 90, "only {} connections", hogs.len());
    // Twenty refusals are two seconds of it.
    let refusal = "a connection could not be accepted";
    gateway.until_said(20, refusal);
    let (refused, used) = (gateway.times_said(refusal), gateway.cpu_time().saturating_sub(before));
    let took = begin.elapsed();
    // One that is slow tries less, and takes no more.
    assert!(refused as u128 <= took.as_millis() / 100 + 2, "it spins: {refused} refusals in {took:?}");
    assert!(used < took / 2, "it spins: {used:?} of processor time in {took:?}");
    drop(hogs);
    gateway.json(&["sandbox", "create", "after"]);
    assert_eq!(gateway.shell("after", "echo here").ok(), "here\n");
    gateway.chiton(&["sandbox", "delete", "after"]).ok();
    gateway.terminate();
    gateway.limit_files(None);
}

#[test]
fn a_failed_fsync_ends_the_program_and_the_next_one_has_all_that_was_promised() {
    if !root() {
        return;
    }
    assert!(Path::new("/dev/loop-control").exists(), "this test needs a kernel with loop devices");
    let mut gateway = Gateway::start(CONFIG);
    gateway.terminate();
    // The store on a file system that promises more room than the disk below it has.
    let disk = Disk::mount(gateway.path("small"), "12m");
    let (image, store) = (gateway.path("small/image"), gateway.path("data/store"));
    File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("an image");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("a program of the system");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("mkfs.ext4", &["-q", "-O", "^has_journal", "-m", "0", path(&image)]);
    fs::rename(&store, gateway.path("aside")).expect("moved");
    fs::create_dir(&store).expect("a mount point");
    run("mount", &["-o", "loop", path(&image), path(&store)]);
    let mounted = Disk(store.clone());
    run("cp", &["-a", &format!("{}/.", gateway.path("aside").display()), path(&store)]);
    gateway.begin();
    disk.fill();
    let mut promised = Vec::new();
    for number in 0..200 {
        let output = gateway.chiton(&["--json", "sandbox", "create", &format!("box-{number}"), "--no-wait"]);
        if output.code != 0 {
            break;
        }
        let made: Value = serde_json::from_str(&output.stdout).expect("a sandbox");
        promised.push(text(&made, "id").to_owned());
    }
    gateway.until_ended();
    gateway.until_said(1, "can no longer be trusted");
    disk.free();
    gateway.begin();
    gateway.until_idle();
    let rows = gateway.json(&["sandbox", "list", "--all"]);
    let there: Vec<&str> = rows.as_array().expect("a list").iter().map(|row| text(row, "id")).collect();
    assert!(promised.iter().all(|id| there.contains(&id.as_str())), "promised {promised:?}, there {there:?}");
    empty(&gateway);
    gateway.terminate();
    run("cp", &["-a", &format!("{}/.", store.display()), path(&gateway.path("aside"))]);
    drop(mounted);
    drop(disk);
    fs::remove_dir(&store).expect("the mount point");
    fs::rename(gateway.path("aside"), &store).expect("moved back");
}
