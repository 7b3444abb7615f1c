use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener as Blocking;
use std::path::{Path, PathBuf};

use chiton_model::SandboxId;
use chiton_socket::connect_to;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::{Relays, Way};

/// A user who is nobody on this machine.
const STRANGER: u32 = 4_242_424;

fn id() -> SandboxId {
    SandboxId::new("s-one").unwrap()
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What an agent hears that says hello: everything until the end.
async fn hello(folder: &Path) -> Vec<u8> {
    let mut agent = connect_to(&folder.join("agent.sock")).await.unwrap();
    agent.write_all(b"hello").await.unwrap();
    let mut heard = Vec::new();
    // A connection that is ended with bytes in it ends with an error.
    match agent.read_to_end(&mut heard).await {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => heard,
    }
}

/// Answers one caller with what it said.
async fn echo(listener: UnixListener) {
    let (mut caller, _) = listener.accept().await.unwrap();
    let mut said = [0; 5];
    caller.read_exact(&mut said).await.unwrap();
    caller.write_all(&said).await.unwrap();
}

#[tokio::test]
async fn an_agent_is_joined_with_its_callers_socket() {
    let place = tempfile::tempdir().unwrap();
    // An address holds 107 bytes.
    let folder = place.path().join("d".repeat(100)).join("e".repeat(100));
    let (relays, socket) = (Relays::new(place.path().join("relays")), place.path().join("gateway.sock"));
    for _ in 0..2 {
        let gateway = tokio::spawn(echo(UnixListener::bind(&socket).unwrap()));
        relays.open(&id(), &folder, Way { socket: socket.clone(), uid: own() }).unwrap();
        assert_eq!(hello(&folder).await, b"hello");
        gateway.await.unwrap();
        fs::remove_file(&socket).unwrap();
    }
    relays.close(&id());
    assert_eq!(fs::read_dir(place.path().join("relays")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_socket_that_is_not_the_callers_is_never_joined() {
    let place = tempfile::tempdir().unwrap();
    let (relays, folder) = (Relays::new(place.path().join("relays")), place.path().join("agent"));
    let socket = place.path().join("others.sock");
    let victim = Blocking::bind(&socket).unwrap();
    victim.set_nonblocking(true).unwrap();
    relays.open(&id(), &folder, Way { socket: socket.clone(), uid: STRANGER }).unwrap();
    assert_eq!(hello(&folder).await, b"");
    assert_eq!(victim.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody came");
    if own() != 0 {
        println!("SKIPPED the rest: only root can give a file to another user");
        return;
    }
    // A file of the caller's own and a process that is not: it hears nothing.
    chown(&socket, Some(STRANGER), None).unwrap();
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(hello(&folder).await, b"");
    if let Ok((mut came, _)) = victim.accept() {
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut came, &mut heard).unwrap();
        assert_eq!(heard, b"");
    }
    // After a restart it is the same caller's.
    drop(relays);
    let relays = Relays::new(place.path().join("relays"));
    relays.resume(|_| folder.clone());
    assert_eq!(hello(&folder).await, b"");
}

#[tokio::test]
async fn where_an_agent_leads_is_written_whole_or_not_at_all() {
    let place = tempfile::tempdir().unwrap();
    let (relays, folder) = (Relays::new(place.path().join("relays")), place.path().join("agent"));
    let way = |name: &str| Way { socket: PathBuf::from("/run/odd\nname").join(name), uid: own() };
    relays.open(&id(), &folder, way("one")).unwrap();
    let (file, before) = (place.path().join("relays/s-one"), place.path().join("before"));
    fs::hard_link(&file, &before).unwrap();
    relays.open(&id(), &folder, way("two")).unwrap();
    // Nobody who reads sees a file that is being written.
    assert_eq!(Way::from_bytes(&fs::read(&before).unwrap()), Some(way("one")));
    assert_eq!(Way::from_bytes(&fs::read(&file).unwrap()), Some(way("two")));
    assert_eq!(Way::from_bytes(b"/run/gateway.sock"), None);
}
