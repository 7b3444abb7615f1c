use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use chiton_model::{Error, ErrorKind};
use chiton_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

use crate::address::{choose, user_run_folder};
use crate::{Address, connect, from_status, to_status};

fn at(socket: &Path) -> Address {
    Address { socket: socket.to_owned(), origin: "--gateway" }
}

#[test]
fn the_flag_wins_over_the_variable_and_that_over_the_default() {
    let runtime = Some(Path::new("/run/user/7/chiton"));
    let flag = choose(Some("unix:/a/x"), Some("/b/y"), true, runtime).unwrap();
    assert_eq!((flag.socket, flag.origin), (PathBuf::from("/a/x"), "--gateway"));
    let variable = choose(None, Some("/b/y"), true, runtime).unwrap();
    assert_eq!((variable.socket, variable.origin), (PathBuf::from("/b/y"), "CHITON_GATEWAY"));
    let root = choose(None, None, true, runtime).unwrap();
    assert_eq!((root.socket, root.origin), (PathBuf::from("/run/chiton/gateway.sock"), "default"));
    let user = choose(None, None, false, runtime).unwrap();
    assert_eq!(user.socket, PathBuf::from("/run/user/7/chiton/gateway.sock"));
}

#[test]
fn an_ordinary_users_socket_is_in_its_runtime_folder_else_in_its_state_folder() {
    let of = |runtime: &str, state: &str, home: &str| {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        user_run_folder(path(runtime), path(state), path(home)).map(|path| path.display().to_string())
    };
    assert_eq!(of("/run/user/7", "/state", "/home/ann").as_deref(), Some("/run/user/7/chiton"));
    assert_eq!(of("", "/state", "/home/ann").as_deref(), Some("/state/chiton/run"));
    assert_eq!(of("relative", "relative", "/home/ann").as_deref(), Some("/home/ann/.local/state/chiton/run"));
    assert_eq!(of("", "", "relative"), None);
    let error = choose(None, None, false, None).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable { what: "gateway".into() });
    assert!(error.cure.unwrap().contains("--gateway unix:PATH"));
}

#[test]
fn what_is_no_path_is_refused_and_its_origin_named() {
    for text in ["", "unix:", "localhost:8080", "gateway", "https://host/x", "/a\0b"] {
        let error = choose(None, Some(text), true, None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid { field: "CHITON_GATEWAY".into() }, "{text:?}");
    }
}

#[test]
fn every_condition_comes_back_as_it_went() {
    let table = [
        (Error::invalid("a.b", "m"), Code::InvalidArgument),
        (Error::not_found("m"), Code::NotFound),
        (Error::already_exists("m"), Code::AlreadyExists),
        (Error::conflict("m"), Code::Aborted),
        (Error::refused("policy", "m"), Code::FailedPrecondition),
        (Error::unavailable("store", "m"), Code::Unavailable),
        (Error::exhausted("addresses", "m"), Code::ResourceExhausted),
        (Error::deadline("m"), Code::DeadlineExceeded),
        (Error::unsupported("oci", "network.ports", "m"), Code::Unimplemented),
        (Error::internal("m"), Code::Internal),
    ];
    for (error, code) in table {
        for error in [error.clone(), error.cure("do this\nthen \"that\" → ü")] {
            let status = to_status(&error);
            assert_eq!(status.code(), code);
            assert_eq!(from_status(&status), error);
        }
    }
}

#[test]
fn texts_too_long_for_a_header_are_cut_at_a_character_and_marked() {
    let long = "ü".repeat(40_000);
    let status = to_status(&Error::refused(long.clone(), long.clone()).cure(long.clone()));
    // As sent: the message percent-encoded (three bytes for each), the details as base64.
    let sent = status.message().len() * 3 + status.details().len() * 4 / 3;
    assert!(sent < 12 << 10, "{sent} bytes do not fit into a 16 KiB header block with its other fields");
    let error = from_status(&status);
    let ErrorKind::Refused { by } = &error.kind else { panic!("{error:?}") };
    for text in [by, &error.message, error.cure.as_ref().unwrap()] {
        assert!(text.ends_with("ü…") && text.len() < long.len(), "{text:?}");
    }
}

#[test]
fn a_status_from_elsewhere_keeps_its_condition() {
    assert_eq!(from_status(&Status::not_found("x")), Error::not_found("x"));
    assert_eq!(from_status(&Status::permission_denied("x")), Error::refused("gateway", "x"));
    assert_eq!(from_status(&Status::unavailable("x")).kind, ErrorKind::Unavailable { what: "gateway".into() });
    let unknown_call = from_status(&Status::unimplemented(""));
    assert_eq!(unknown_call.kind, ErrorKind::Unsupported { driver: "gateway".into(), point: "call".into() });
    assert!(unknown_call.cure.unwrap().contains("older"));
}

#[test]
fn details_that_are_garbage_or_use_an_unknown_word_fall_back_to_the_code() {
    let unknown = ErrorDetail { code: "melted".into(), message: "inner".into(), ..ErrorDetail::default() };
    for details in [vec![0xff; 7], unknown.encode_to_vec()] {
        let status = Status::with_details(Code::Aborted, "outer", details.into());
        assert_eq!(from_status(&status), Error::conflict("outer"));
    }
}

#[test]
fn a_broken_connection_is_told_by_its_innermost_cause() {
    let mut status = Status::unknown("transport error");
    status.set_source(std::sync::Arc::new(std::io::Error::other("peer vanished")));
    let error = from_status(&status);
    assert_eq!(error.message, "the connection to the gateway broke: peer vanished");
    assert_eq!(error.kind, ErrorKind::Unavailable { what: "gateway".into() });
}

#[tokio::test]
async fn without_a_socket_the_error_says_how_to_start_a_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let error = connect(&at(&socket)).await.unwrap_err();
    assert_eq!(error.message, format!("no gateway runs at unix:{} (no such socket)", socket.display()));
    let cure = error.cure.unwrap();
    assert!(cure.contains(&format!("chiton gateway --listen unix:{}", socket.display())), "{cure}");
    assert!(cure.ends_with("or correct --gateway"), "{cure}");

    let default = Address { origin: "default", ..at(&socket) };
    let cure = connect(&default).await.unwrap_err().cure.unwrap();
    assert!(cure.starts_with("start one with `chiton gateway`,") && cure.contains("chiton demo"), "{cure}");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_told_from_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    drop(StdListener::bind(&socket).unwrap());
    let error = connect(&at(&socket)).await.unwrap_err();
    assert!(error.message.ends_with("(its socket is there, nobody listens)"), "{}", error.message);
}

#[tokio::test]
async fn a_socket_of_another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    if rustix::process::geteuid().is_root() {
        // Root may connect anywhere; the kernel's answer is what the table is about.
        let cause = std::io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        let error = crate::connect::no_connection(&at(Path::new("/x/s")), &cause);
        assert_eq!(error.kind, ErrorKind::Refused { by: "gateway".into() });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let _listener = StdListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o0)).unwrap();
    let error = connect(&at(&socket)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused { by: "gateway".into() });
}

#[tokio::test]
async fn a_socket_path_longer_than_the_kernel_takes_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    // Bound through the folder's handle: bind(2) has the same limit as connect(2).
    let handle = std::fs::File::open(&deep).unwrap();
    let near = format!("/proc/self/fd/{}/s", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let listener = StdListener::bind(near).unwrap();
    connect(&at(&deep.join("s"))).await.unwrap();
    // It is this listener that was reached.
    listener.accept().unwrap();
}

#[tokio::test]
async fn calls_arrive_at_the_server_behind_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let stream = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let routes = tonic::service::Routes::default();
    let server = tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(stream));
    let mut client = connect(&at(&socket)).await.unwrap();
    for _ in 0..2 {
        let status = client.get_info(chiton_proto::v1::GetInfoRequest {}).await.unwrap_err();
        // An answer of the RPC layer: the call arrived at a server that lacks it.
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    server.abort();
}

#[test]
fn a_status_without_a_text_says_at_least_that() {
    let error = crate::from_status(&tonic::Status::new(tonic::Code::InvalidArgument, ""));
    assert_eq!(error.message, "it gives no reason");
}

#[test]
fn a_message_that_is_too_large_is_told_with_a_cure() {
    let error = crate::from_status(&tonic::Status::out_of_range("found 5 bytes, the limit is: 4 bytes"));
    assert!(error.message.contains("too large: found 5 bytes") && error.cure.is_some(), "{error:?}");
}
