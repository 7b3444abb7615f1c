//! Both sides of a socket, on real ones. What needs another user's file is looked at where the test runs as root.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chiton_model::ErrorKind;
use chiton_socket::{Access, Dial, PeerListener, own_and_root};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn access(private: bool) -> Access {
    Access { who: "driver", cure: "choose another socket", allowed: Arc::new(own_and_root()), private }
}

fn dial(path: &Path) -> Dial {
    Dial {
        what: "driver \"kyma\"".to_owned(),
        path: path.to_owned(),
        peers: own_and_root(),
        limit: Duration::from_secs(5),
    }
}

/// Held alone while a child is started: until it executes its program it has what this process has, listeners too.
static STARTS: RwLock<()> = RwLock::new(());

/// Leaves a socket that nobody listens on.
fn stale(path: &Path) {
    let _nobody_starts = STARTS.read().unwrap_or_else(PoisonError::into_inner);
    drop(UnixListener::bind(path).unwrap());
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/driver.sock");
    let listener = PeerListener::bind(&path, &access(true)).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let waiting = tokio::spawn(async move { listener.accept().await });
    let (mut stream, peer) = dial(&path).connect().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut accepted = waiting.await.unwrap();
    let own = std::process::id().cast_signed();
    assert_eq!((peer, accepted.peer), (accepted.peer, peer));
    assert_eq!(peer.pid, Some(own));
    let mut got = [0; 5];
    accepted.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    // Whoever accepted the last one is gone, and the file with it.
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("driver.sock");
    stale(&path);
    let bound = PeerListener::bind(&path, &access(true)).unwrap();
    let error = PeerListener::bind(&path, &access(true)).unwrap_err();
    assert!(error.message.contains("another driver answers there") && error.cure.is_some(), "{error:?}");
    drop(bound);
    fs::write(&path, "precious").unwrap();
    let error = PeerListener::bind(&path, &access(true)).unwrap_err();
    assert!(error.message.contains("no socket") && error.message.contains("driver.sock"), "{error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_is_not_private() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("driver.sock");
    let error = PeerListener::bind(&path, &access(true)).unwrap_err();
    assert!(error.message.contains("others may write"), "{error:?}");
    let _open = PeerListener::bind(&path, &access(false)).unwrap();
    let error = dial(&path).connect().await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Refused { .. }), "{error:?}");
    assert!(error.message.contains("everybody may write") && error.message.contains("driver.sock"), "{error:?}");
}

#[tokio::test]
async fn a_folder_in_which_others_may_replace_the_socket_is_not_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("driver.sock");
    let _listener = PeerListener::bind(&path, &access(false)).unwrap();
    let link = folder.path().join("link.sock");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for (bits, who) in [(0o775, "its group may write"), (0o770, "its group may write"), (0o707, "everybody may write")]
    {
        fs::set_permissions(&inner, fs::Permissions::from_mode(bits)).unwrap();
        for way in [&path, &link] {
            let error = dial(way).connect().await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Refused { .. }), "{error:?}");
            assert!(error.message.contains(who) && error.message.contains(".sock"), "{error:?}");
            assert!(error.cure.unwrap().contains("chmod go-w"));
        }
    }
    for bits in [0o1777, 0o1770, 0o755, 0o700] {
        fs::set_permissions(&inner, fs::Permissions::from_mode(bits)).unwrap();
        dial(&link).connect().await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_of_our_own_is_open_to_everybody_only_where_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("driver.sock");
    // As `--peer-uid` makes it.
    let mut shared = access(true);
    shared.allowed = Arc::new(own_and_root().into_iter().chain([4242]).collect());
    let _listener = PeerListener::bind(&path, &shared).unwrap();
    assert_eq!(mode(&path), 0o666);
    let error = dial(&path).connect().await.unwrap_err();
    assert!(error.message.contains("mode 0666") && error.message.contains("driver.sock"), "{error:?}");
    assert!(error.cure.unwrap().contains("peer_uids"));
    let mut named = dial(&path);
    named.peers.insert(4242);
    named.connect().await.unwrap();
    // A group is the operator's to fill.
    for bits in [0o660, 0o600] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        dial(&path).connect().await.unwrap();
    }
}

#[tokio::test]
async fn a_driver_of_root_that_names_a_user_is_dialled_by_that_user() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED a_driver_of_root_that_names_a_user_is_dialled_by_that_user: only root can be another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("driver.sock");
    let mut shared = access(true);
    shared.allowed = Arc::new(BTreeSet::from([0, 4242]));
    let listener = PeerListener::bind(&path, &shared).unwrap();
    let user = std::thread::spawn(move || {
        // This thread is that user from here on (setuid(2), by the kernel's own call), and nobody else is.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(4242)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_, peer) = runtime.block_on(dial(&path).connect()).unwrap();
        assert_eq!(peer.uid, 0);
    });
    assert_eq!(listener.accept().await.peer.uid, 4242);
    user.join().unwrap();
}

#[tokio::test]
async fn a_socket_of_its_successor_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("driver.sock");
    let first = PeerListener::bind(&path, &access(true)).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = PeerListener::bind(&path, &access(true)).unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_not_there_is_said_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    let absent = dial(&path).connect().await.unwrap_err();
    assert!(absent.message.contains("no such socket") && absent.message.contains("none.sock"), "{absent:?}");
    fs::write(&path, "").unwrap();
    let odd = dial(&path).connect().await.unwrap_err();
    assert!(odd.message.contains("it is no socket"), "{odd:?}");
    fs::remove_file(&path).unwrap();
    stale(&path);
    let deaf = dial(&path).connect().await.unwrap_err();
    assert!(deaf.message.contains("nobody listens there"), "{deaf:?}");
    for error in [absent, deaf] {
        assert!(matches!(error.kind, ErrorKind::Unavailable { .. }) && error.cure.is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_path_longer_than_an_address_is_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(90)).join("e".repeat(90));
    fs::create_dir_all(&deep).unwrap();
    let short = folder.path().join("s");
    let listener = PeerListener::bind(&short, &access(true)).unwrap();
    fs::rename(&short, deep.join("driver.sock")).unwrap();
    let waiting = tokio::spawn(async move { listener.accept().await });
    dial(&deep.join("driver.sock")).connect().await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn strangers_are_trusted_by_neither_side() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED strangers_are_trusted_by_neither_side: only root can give a file to another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let path = folder.path().join("driver.sock");
    let mut strict = access(true);
    strict.allowed = Arc::new(BTreeSet::from([4242]));
    let listener = PeerListener::bind(&path, &strict).unwrap();
    let turned_away = tokio::spawn(async move { listener.accept().await });
    let mut first = dial(&path);
    first.peers.insert(4242);
    let (mut stream, _) = first.connect().await.unwrap();
    let mut end = Vec::new();
    stream.read_to_end(&mut end).await.unwrap();
    assert!(end.is_empty() && !turned_away.is_finished());
    chown(&path, Some(4242), None).unwrap();
    let error = dial(&path).connect().await.unwrap_err();
    assert!(error.message.contains("belongs to uid 4242"), "{error:?}");
    let mut named = dial(&path);
    named.peers = BTreeSet::from([4242]);
    let error = named.connect().await.unwrap_err();
    assert!(error.message.contains("a process of uid 0 answers there"), "{error:?}");
    turned_away.abort();
}

/// Connects as another user, on a thread that ends with that.
fn connected_as(uid: u32, path: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    let path = path.to_owned();
    let connecting = std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(user, user, user)?;
        std::os::unix::net::UnixStream::connect(path)
    });
    connecting.join().unwrap()
}

#[tokio::test]
async fn a_named_user_comes_in_through_a_folder_that_is_made() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED a_named_user_comes_in_through_a_folder_that_is_made: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut named = access(true);
    named.allowed = Arc::new(BTreeSet::from([4242]));
    let path = folder.path().join("made/deep/driver.sock");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = PeerListener::bind(&path, &named).unwrap_err();
    assert!(error.message.contains("uid 4242") && error.message.contains("chmod o+x"), "{error:?}");
    assert!(!path.exists());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let listener = PeerListener::bind(&path, &named).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap()), mode(&folder.path().join("made"))), (0o666, 0o711, 0o711));
    let accepting = tokio::spawn(async move { (listener.accept().await.peer.uid, listener) });
    let _stream = connected_as(4242, &path).unwrap();
    let (uid, listener) = accepting.await.unwrap();
    assert_eq!(uid, 4242);
    drop(listener);
    // A folder that was there, and that they cannot pass.
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = PeerListener::bind(&path, &named).unwrap_err();
    assert!(error.message.contains("made/deep") && error.message.contains("chmod o+x"), "{error:?}");
}

#[test]
fn one_that_does_not_accept_any_more_keeps_nobody_waiting() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("driver.sock");
    // It has one place in its queue, and that is taken.
    let stopped = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&stopped, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&stopped, 0).unwrap();
    let waiting = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&waiting, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let (sender, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bound = runtime.block_on(async { PeerListener::bind(&path, &access(true)).map(drop) });
        // Whoever does not wait any more has failed already.
        drop(sender.send(bound));
    });
    let error = bound.recv_timeout(Duration::from_secs(20)).expect("it does not hang").unwrap_err();
    assert!(error.message.contains("another driver answers there"), "{error:?}");
}

#[tokio::test]
async fn a_child_of_a_dead_listener_that_has_not_executed_its_program_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("driver.sock");
    let script = "import os, socket, subprocess, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.bind(sys.argv[1])\n\
                  s.listen()\n\
                  subprocess.Popen(['sleep', '0.5'], pass_fds=[s.fileno()])\n\
                  os._exit(0)";
    let mut listening = {
        let _alone = STARTS.write().unwrap_or_else(PoisonError::into_inner);
        std::process::Command::new("python3").args(["-c", script]).arg(&path).spawn().unwrap()
    };
    assert!(listening.wait().unwrap().success());
    let listener = PeerListener::bind(&path, &access(true)).unwrap();
    let waiting = tokio::spawn(async move { listener.accept().await });
    dial(&path).connect().await.unwrap();
    waiting.await.unwrap();
}
