//! `[supervisor]`.

use std::path::PathBuf;

use insta::assert_snapshot;

use super::{bad, file, good};
use crate::plugin::Listen;

#[test]
fn supervisors_are_served_on_this_machine_unless_told_otherwise() {
    let listen = |text: &str| good(&file(text)).supervisor.listen;
    assert_eq!(listen(""), Listen::Tcp(([127, 0, 0, 1], 17_680).into()));
    assert_eq!(listen("[supervisor]\nlisten = \"127.0.0.2:9\"\n"), Listen::Tcp(([127, 0, 0, 2], 9).into()));
    assert_eq!(listen("[supervisor]\nlisten = \"unix:/run/s.sock\"\n"), Listen::Unix(PathBuf::from("/run/s.sock")));
}

#[test]
fn other_machines_reach_them_only_when_the_operator_says_so() {
    let text = "[supervisor]\nlisten = \"0.0.0.0:17680\"\n";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: supervisor.listen: "0.0.0.0:17680" is reached by other machines, and supervisors are served without TLS; use 127.0.0.1 or [::1], put a proxy with TLS before it, or set allow_remote = true where the network between is trusted"#);
    let allowed = good(&file(&format!("{text}allow_remote = true\n"))).supervisor;
    assert_eq!((allowed.listen, allowed.allow_remote), (Listen::Tcp(([0, 0, 0, 0], 17_680).into()), true));
}

#[test]
fn a_place_that_is_none_is_told_with_one_that_is() {
    let text = "[supervisor]\nlisten = \"localhost\"\n";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: supervisor.listen: "localhost" is no address; write an IP address with a port, for example "127.0.0.1:17680", or "unix:/path""#);
}
