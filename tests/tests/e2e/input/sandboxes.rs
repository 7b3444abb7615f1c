//! Requests to sandboxes that are not there or not so, and wrong usage.

use super::{answers, filters};
use crate::harness::{Gateway, root};

#[test]
fn requests_to_sandboxes_that_are_not_there_or_not_so_are_refused() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.chiton(&["sandbox", "create", "halted"]).ok();
    gateway.chiton(&["sandbox", "stop", "halted"]).ok();
    std::fs::write(gateway.path("file"), "x").expect("a file");
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(answers(&gateway, &[
            ("a name that is taken", &["sandbox", "create", "box"]),
            ("a sandbox that is not there", &["sandbox", "get", "bax"]),
            ("an id of a wrong form", &["sandbox", "get", "--id", "../../etc"]),
            ("an id that is not there", &["sandbox", "get", "--id", "s-00000000000000000000000000"]),
            ("stop of what is not there", &["sandbox", "stop", "bax"]),
            ("delete of what is not there", &["sandbox", "delete", "bax"]),
            ("delete of everything without a word", &["sandbox", "delete", "--all"]),
            ("copy of a missing file here", &["sandbox", "cp", "none", "box:/tmp/none"]),
            ("copy of a missing file there", &["sandbox", "cp", "box:/tmp/none", "none"]),
            ("copy into a missing folder", &["sandbox", "cp", "file", "box:/none/such/file"]),
            ("copy out of a stopped sandbox", &["sandbox", "cp", "halted:/etc/passwd", "passwd"]),
            ("copy between sandboxes", &["sandbox", "cp", "box:/etc/passwd", "halted:/tmp/passwd"]),
            ("copy from here to here", &["sandbox", "cp", "file", "other"]),
            ("a workspace that has sandboxes", &["workspaces", "delete", "default"]),
            ("a workspace that is not there", &["workspaces", "delete", "none"]),
            ("an orphan that is not there", &["orphans", "delete", "oci", "s-00000000000000000000000000"]),
            ("an orphan that is none", &["orphans", "delete", "oci", gateway.get("box")["id"].as_str().expect("an id")]),
            ("timeline of what is not there", &["timeline", "bax"]),
            ("a gateway that is not there", &["--gateway", "unix:/none/such.sock", "drivers"]),
            ("an address of a wrong form", &["--gateway", "tcp:1.2.3.4", "drivers"]),
        ]), @r#"
        # a name that is taken: 1
        error: sandbox "box" exists already in workspace "default" [already_exists]
          cure: choose another name, or delete that sandbox first
        # a sandbox that is not there: 1
        error: there is no sandbox "bax" in workspace "default" [not_found]
          cure: chiton sandbox list shows those that exist
        # an id of a wrong form: 1
        error: sandbox id "../../etc" is not valid [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens
        # an id that is not there: 1
        error: there is no sandbox with id [sandbox] [not_found]
        # stop of what is not there: 1
        error: there is no sandbox "bax" in workspace "default" [not_found]
          cure: chiton sandbox list shows those that exist
        # delete of what is not there: 1
        error: there is no sandbox "bax" in workspace "default" [not_found]
          cure: chiton sandbox list shows those that exist
        # delete of everything without a word: 1
        error: delete --all would delete 2 sandboxes and nobody can be asked [invalid]
          cure: add --yes
        # copy of a missing file here: 1
        error: none: No such file or directory (os error 2) [invalid]
        # copy of a missing file there: 1
        error: there is no "/tmp/none" in the sandbox [not_found]
        # copy into a missing folder: 1
        error: /none/such could not be entered: No such file or directory (os error 2) [not_found]
        # copy out of a stopped sandbox: 1
        error: sandbox "halted" is Stopped, not Ready [conflict]
          cure: start it: chiton sandbox start
        # copy between sandboxes: 1
        error: both sides are in sandboxes [invalid]
          cure: copy to this machine first
        # copy from here to here: 1
        error: both sides are paths on this machine [invalid]
          cure: write one of them as NAME:/path
        # a workspace that has sandboxes: 1
        error: the workspace still has 2 sandboxes [conflict]
          cure: delete them first
        # a workspace that is not there: 1
        error: there is no workspace "none" [not_found]
        # an orphan that is not there: 1
        error: driver oci has no object [sandbox] [not_found]
          cure: list what is there: chiton orphans list
        # an orphan that is none: 1
        error: [sandbox] belongs to a sandbox [refused]
          cure: delete the sandbox instead: chiton sandbox delete
        # timeline of what is not there: 1
        error: there is no sandbox "bax" in workspace "default" [not_found]
          cure: chiton sandbox list shows those that exist
        # a gateway that is not there: 1
        error: no gateway runs at unix:/none/such.sock (no such socket) [unavailable]
          cure: start one with `chiton gateway --listen unix:/none/such.sock`, or correct --gateway
        # an address of a wrong form: 1
        error: --gateway is "tcp:1.2.3.4", which is no address of a gateway [invalid]
          cure: write it as unix:PATH, for example unix:/run/chiton/gateway.sock
        "#);
        insta::assert_snapshot!(answers(&gateway, &[
            ("exec in what is not there", &["sandbox", "exec", "bax", "--", "true"]),
            ("exec in a stopped sandbox", &["sandbox", "exec", "halted", "--", "true"]),
            ("exec in a relative folder", &["sandbox", "exec", "--workdir", "tmp", "box", "--", "true"]),
            ("exec in a missing folder", &["sandbox", "exec", "--workdir", "/none", "box", "--", "true"]),
            ("exec with a variable of no name", &["sandbox", "exec", "--env", "A B=1", "box", "--", "true"]),
            ("exec with a reserved variable", &["sandbox", "exec", "--env", "CHITON_X=1", "box", "--", "true"]),
            ("exec of nothing", &["sandbox", "exec", "box", "--", ""]),
        ]), @r#"
        # exec in what is not there: 125
        error: there is no sandbox "bax" in workspace "default" [not_found]
          cure: chiton sandbox list shows those that exist
        # exec in a stopped sandbox: 125
        error: sandbox "halted" is Stopped, not Ready [conflict]
          cure: start it: chiton sandbox start
        # exec in a relative folder: 125
        error: the working folder "tmp" is not an absolute path [invalid]
        # exec in a missing folder: 126
        error: the working folder "/none" cannot be entered: No such file or directory (os error 2) [invalid]
        # exec with a variable of no name: 125
        error: environment name "A B" is not valid [invalid]
          cure: use letters, digits and '_', not beginning with a digit, at most 255 characters
        # exec with a reserved variable: 125
        error: environment variable "CHITON_X" is reserved: names that begin with "CHITON_" are set by the gateway [refused]
          cure: choose another name
        # exec of nothing: 125
        error: the program's name is empty [invalid]
          cure: name a program, for example "sh"
        "#);
        insta::assert_snapshot!(answers(&gateway, &[
            ("exec without a command", &["sandbox", "exec", "box"]),
            ("an option of no such name", &["sandbox", "create", "--memroy", "1Gi"]),
            ("a time of a wrong form", &["sandbox", "exec", "--timeout", "soon", "box", "--", "true"]),
            ("logs since no time", &["sandbox", "logs", "box", "--since", "yesterday"]),
            ("a label without a value", &["sandbox", "create", "--label", "team"]),
            ("a relative path there", &["sandbox", "cp", "file", "box:tmp"]),
        ]), @r#"
        # exec without a command: 2
        error: the following required arguments were not provided:
          <CMD>...

        Usage: chiton-test sandbox exec <NAME> -- <CMD>...

        For more information, try '--help'.
        # an option of no such name: 2
        error: unexpected argument '--memroy' found

          tip: a similar argument exists: '--memory'
          tip: to pass '--memroy' as a value, use '-- --memroy'

        Usage: chiton-test sandbox create --memory <Q> [NAME] [-- <CMD>...]

        For more information, try '--help'.
        # a time of a wrong form: 2
        error: invalid value 'soon' for '--timeout <TIME>': write a time such as 500ms, 5s or 1m30s

        For more information, try '--help'.
        # logs since no time: 2
        error: invalid value 'yesterday' for '--since <TIME>': write an RFC 3339 time, or how long ago: 10m

        For more information, try '--help'.
        # a label without a value: 2
        error: invalid value 'team' for '--label <K=V>': write KEY=VALUE

        For more information, try '--help'.
        # a relative path there: 2
        error: invalid value 'box:tmp' for '<TARGET>': "tmp" is not an absolute path in a sandbox; write box:/tmp, or ./box:tmp for a file of that name

        For more information, try '--help'.
        "#);
    });
    let names = gateway.json(&["sandbox", "list", "--all"]);
    assert_eq!(names.as_array().map(Vec::len), Some(2), "nothing was added or removed");
    gateway.shell("box", "true").ok();
}
