//! Bad input: what is said, word for word, and that nothing is stored.

use std::fmt::Write as _;

use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use serde_json::json;
use tokio_stream::iter;

use crate::harness::{Gateway, Output, root};
use crate::life::CHAIN;

fn filters() -> [(&'static str, &'static str); 4] {
    [
        (r#"[^\s":]*chiton-e2e-[0-9A-Za-z]+"#, "[folder]"),
        ("s-[0-9a-z]{26}", "[sandbox]"),
        ("op-[0-9a-z]{26}", "[operation]"),
        ("[0-9a-f]{64}", "[sha256]"),
    ]
}

/// The answers to bad requests, one after the other, each with its exit code.
fn answers(gateway: &Gateway, requests: &[(&str, &[&str])]) -> String {
    let mut told = String::new();
    for (what, arguments) in requests {
        let Output { code, stdout, stderr } = gateway.chiton(arguments);
        assert!(code != 0 && stdout.is_empty(), "{what}: {code} {stdout} {stderr}");
        writeln!(told, "# {what}: {code}\n{}", stderr.trim_end()).expect("a string");
    }
    told
}

#[track_caller]
fn nothing_is_stored(gateway: &Gateway) {
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]));
    assert_eq!(gateway.json(&["orphans", "list"]), json!([]));
    assert_eq!(gateway.entries("leases"), Vec::<String>::new());
    assert_eq!(gateway.entries("data/drivers/oci/sandboxes"), Vec::<String>::new());
}

#[test]
fn creates_that_make_no_sense_are_refused_and_store_nothing() {
    if !root() {
        return;
    }
    let config = format!(
        "{CHAIN}\n[compute.driver.oci]\ndir_roots = [\"{{folder}}/images\"]\n\
         [secrets.key]\nenv = \"PATH\"\nallow = {{ workspaces = [\"trusted\"] }}\n"
    );
    let gateway = Gateway::start(&config);
    let long = "x".repeat(70_000);
    let create = ["sandbox", "create"];
    let requests: &[(&str, &[&str])] = &[
        ("name with capitals", &["Box"]),
        ("name too long", &["a234567890123456789012345678901234567890123456789012345678901234"]),
        ("name that ends with a hyphen", &["box-"]),
        ("name in another script", &["бокс"]),
        ("name with a control character", &["bo\u{7}x"]),
        ("name that turns the line", &["bo\u{202e}x"]),
        ("workspace with a slash", &["box", "-w", "../etc"]),
        ("reserved label", &["box", "--label", "chiton.dev/sandbox-id=1"]),
        ("label key with a space", &["box", "--label", "a b=1"]),
        ("label value with a control character", &["box", "--label", "a=\u{1b}[31m"]),
        ("label given twice", &["box", "--label", "a=1", "--label", "a=2"]),
        ("reserved variable", &["box", "--env", "CHITON_TOKEN=1"]),
        ("variable with a hyphen", &["box", "--env", "A-B=1"]),
        ("variable with a line break in its name", &["box", "--env", "A\nB=1"]),
        ("malformed cpu", &["box", "--cpu", "two"]),
        ("zero cpu", &["box", "--cpu", "0"]),
        ("negative memory", &["box", "--memory=-1Gi"]),
        ("malformed memory", &["box", "--memory", "1GB"]),
        ("memory beyond all numbers", &["box", "--memory", "99999999999Ei"]),
        ("memory too small", &["box", "--memory", "1"]),
        ("relative workdir", &["box", "--workdir", "tmp"]),
        ("workdir that climbs", &["box", "--workdir", "/tmp/../../etc"]),
        ("unknown image", &["box", "--image", "nope"]),
        ("missing image folder", &["box", "--image", "dir:{folder}/images/none"]),
        ("image folder outside", &["box", "--image", "dir:/etc"]),
        ("relative image folder", &["box", "--image", "dir:images"]),
        ("unknown driver", &["box", "--driver", "occi"]),
        ("driver config without driver", &["box", "--driver-config", "{}"]),
        ("driver config that is no JSON", &["box", "--driver", "oci", "--driver-config", "{network"]),
        ("driver config that is no object", &["box", "--driver", "oci", "--driver-config", "[1]"]),
        ("driver config with an unknown key", &["box", "--driver", "oci", "--driver-config", "{\"netwrok\":1}"]),
        ("extension of no such name", &["box", "--extension", "fleet-label"]),
        ("extension name of a wrong form", &["box", "--extension", "Fleet Labels"]),
        ("malformed digest", &["box", "--expect-plan", "md5:1"]),
        (
            "another digest",
            &["box", "--expect-plan", "sha256:0000000000000000000000000000000000000000000000000000000000000000"],
        ),
        ("unknown secret", &["box", "--secret", "KEY=none"]),
        ("secret of others", &["box", "--secret", "KEY=key"]),
        ("reserved variable for a secret", &["box", "-w", "trusted", "--secret", "CHITON_KEY=key"]),
        ("program without a name", &["box", "--", ""]),
        ("command that is too long", &["box", "--", "echo", &long, &long, &long, &long]),
    ];
    let folder = gateway.folder().to_string_lossy().into_owned();
    let filled: Vec<(&str, Vec<String>)> = requests
        .iter()
        .map(|(what, arguments)| {
            let all = create.iter().chain(*arguments);
            (*what, all.map(|argument| argument.replace("{folder}", &folder)).collect())
        })
        .collect();
    let borrowed: Vec<(&str, Vec<&str>)> =
        filled.iter().map(|(what, arguments)| (*what, arguments.iter().map(String::as_str).collect())).collect();
    let requests: Vec<(&str, &[&str])> =
        borrowed.iter().map(|(what, arguments)| (*what, arguments.as_slice())).collect();
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(answers(&gateway, &requests), @r#"
        # name with capitals: 1
        error: sandbox name "Box" is not valid: it contains 'B' [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # name too long: 1
        error: sandbox name "[sha256]" is not valid: it has 64 bytes, the limit is 63 [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # name that ends with a hyphen: 1
        error: sandbox name "box-" is not valid: it begins or ends with a hyphen [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # name in another script: 1
        error: sandbox name "бокс" is not valid: it contains 'б' [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # name with a control character: 1
        error: sandbox name "bo\u{7}x" is not valid: it contains '\u{7}' [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # name that turns the line: 1
        error: sandbox name "bo\u{202e}x" is not valid: it contains '\u{202e}' [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # workspace with a slash: 1
        error: workspace name "../etc" is not valid: it contains '.' [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens, for example "build-7"
        # reserved label: 1
        error: label "chiton.dev/sandbox-id" is reserved: keys under "chiton.dev/" are set by the gateway [refused]
          cure: choose a key without a reserved prefix; to ask for an extension use --extension
        # label key with a space: 1
        error: key "a b" is not a valid label key [invalid]
          cure: use [prefix/]name: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit
        # label value with a control character: 1
        error: value "\u{1b}[31m" of label "a" is not valid [invalid]
          cure: use at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit
        # label given twice: 1
        error: --label "a" is given twice [invalid]
          cure: give it once
        # reserved variable: 1
        error: environment variable "CHITON_TOKEN" is reserved: names that begin with "CHITON_" are set by the gateway [refused]
          cure: choose another name
        # variable with a hyphen: 1
        error: environment name "A-B" is not valid [invalid]
          cure: use letters, digits and '_', not beginning with a digit, at most 255 characters
        # variable with a line break in its name: 1
        error: environment name "A\nB" is not valid [invalid]
          cure: use letters, digits and '_', not beginning with a digit, at most 255 characters
        # malformed cpu: 1
        error: cpu quantity "two" is not valid: it is not a number with a known suffix [invalid]
          cure: write a Kubernetes quantity, for example "500m" or "2"
        # zero cpu: 1
        error: cpu quantity "0" is not valid: it must be more than zero [invalid]
          cure: write a Kubernetes quantity, for example "500m" or "2"
        # negative memory: 1
        error: memory quantity "-1Gi" is not valid: it is not a number with a known suffix [invalid]
          cure: write a Kubernetes quantity, for example "256Mi" or "1G"
        # malformed memory: 1
        error: memory quantity "1GB" is not valid: it is not a number with a known suffix [invalid]
          cure: write a Kubernetes quantity, for example "256Mi" or "1G"
        # memory beyond all numbers: 1
        error: memory quantity "99999999999Ei" is not valid: it is too large [invalid]
          cure: write a Kubernetes quantity, for example "256Mi" or "1G"
        # memory too small: 1
        error: a memory limit of 1 is too small to start in [invalid]
          cure: allow at least 16Mi
        # relative workdir: 1
        error: working folder "tmp" is not an absolute path [invalid]
          cure: begin it with "/"
        # workdir that climbs: 1
        error: path "/tmp/../../etc" is not an absolute path without ".." [invalid]
          cure: write the path from "/" without detours
        # unknown image: 1
        error: image "nope" is not one that the oci driver can use [invalid]
          cure: use "host", or "dir:" and the absolute path of a root folder
        # missing image folder: 1
        error: image "dir:[folder]/images/none" is not there: [folder]/images/none: No such file or directory (os error 2) [not_found]
          cure: unpack a root file system into that folder, or name another folder
        # image folder outside: 1
        error: image "dir:/etc" is not below a folder that is allowed [refused]
          cure: move it below one of the driver's dir_roots, or let the operator extend them
        # relative image folder: 1
        error: the folder of image "dir:images" is not an absolute path [invalid]
          cure: begin it with "/", for example "dir:/srv/images/debian"
        # unknown driver: 1
        error: driver "occi" is not configured on this gateway [invalid]
          cure: did you mean "oci"?
        # driver config without driver: 1
        error: options of a driver's own need to say which driver [invalid]
          cure: add --driver ID
        # driver config that is no JSON: 1
        error: the options of driver "oci" are not JSON: key must be a string at line 1 column 2 [invalid]
        # driver config that is no object: 1
        error: the options of driver "oci" are not a JSON object [invalid]
          cure: write {"option": value}
        # driver config with an unknown key: 1
        error: the oci driver has no option "netwrok" [invalid]
          cure: the options are hostname, read_only, stop_grace_seconds
        # extension of no such name: 1
        error: extension "fleet-label" is not one that this gateway offers [refused]
          cure: did you mean "fleet-labels"?
        # extension name of a wrong form: 1
        error: extension name "Fleet Labels" is not valid [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens
        # malformed digest: 1
        error: the plan's digest is sha256:[sha256], the request expects md5:1 [refused]
          cure: read the plan again (chiton plan) and pass the digest that it prints
        # another digest: 1
        error: the plan's digest is sha256:[sha256], the request expects sha256:[sha256] [refused]
          cure: read the plan again (chiton plan) and pass the digest that it prints
        # unknown secret: 1
        error: secret "none" is not one that uid:0 may use in workspace "default" [refused]
          cure: ask the operator to define it and to allow it: [secrets.NAME] allow
        # secret of others: 1
        error: secret "key" is not one that uid:0 may use in workspace "default" [refused]
          cure: ask the operator to define it and to allow it: [secrets.NAME] allow
        # reserved variable for a secret: 1
        error: environment variable "CHITON_KEY" is reserved: names that begin with "CHITON_" are set by the gateway [refused]
          cure: choose another name
        # program without a name: 1
        error: the program's name is empty [invalid]
          cure: name a program, for example "sh"
        # command that is too long: 1
        error: the command has 280009 bytes, the limit is 131072 [invalid]
          cure: put the data in a file and pass its path
        "#);
    });
    nothing_is_stored(&gateway);
}

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
            ("logs since no time", &["sandbox", "logs", "box", "--since", "yesterday"]),
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
        # logs since no time: 1
        error: "yesterday" is neither an RFC 3339 time nor a duration such as 10m [invalid]
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

/// A tar of one file, whose name nobody checked.
fn tar(name: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(512 * 3, 0);
    bytes
}

fn by_name(name: &str) -> wire::SandboxSelector {
    wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Name(name.to_owned())), ..Default::default() }
}

fn upload(gateway: &Gateway, path: &str, tar: Vec<u8>) -> String {
    use agent::write_tar_request::Input;
    let message = |input| wire::WriteTarRequest {
        input: Some(wire::write_tar_request::Input::Tar(agent::WriteTarRequest { input: Some(input) })),
    };
    let messages = [
        wire::WriteTarRequest { input: Some(wire::write_tar_request::Input::Sandbox(by_name("box"))) },
        message(Input::Start(agent::WriteTarStart { path: path.to_owned(), ..Default::default() })),
        message(Input::Data(tar.into())),
        message(Input::Finish(true)),
    ];
    let answer = gateway.ask(async |mut client| client.write_tar(iter(messages)).await);
    answer.map_or_else(|status| format!("{:?}: {}", status.code(), status.message()), |_| "taken".to_owned())
}

#[test]
fn archives_that_reach_out_of_their_folder_are_refused() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.shell("box", "mkdir /workspace/in; ln -s /tmp /workspace/in/out").ok();
    let file = tar::EntryType::Regular;
    let mut told = String::new();
    for (what, path, bytes) in [
        ("a name that climbs", "/workspace/in", tar("../climbed", file, "")),
        ("a name that climbs later", "/workspace/in", tar("a/../../climbed", file, "")),
        ("an absolute name", "/workspace/in", tar("/tmp/absolute", file, "")),
        ("a name through a link", "/workspace/in", tar("out/through", file, "")),
        ("a hard link to outside", "/workspace/in", tar("hard", tar::EntryType::Link, "/etc/passwd")),
        ("a device", "/workspace/in", tar("device", tar::EntryType::Block, "")),
        ("an empty name", "/workspace/in", tar("", file, "")),
        ("no tar", "/workspace/in", b"no tar at all".repeat(100)),
        ("half a tar", "/workspace/in", tar("half", file, "")[..300].to_vec()),
        ("a relative folder", "workspace/in", tar("a", file, "")),
        ("a folder that is a file", "/etc/passwd", tar("a", file, "")),
    ] {
        writeln!(told, "{what}: {}", upload(&gateway, path, bytes)).expect("a string");
    }
    insta::assert_snapshot!(told, @r#"
    a name that climbs: InvalidArgument: the tar entry "../climbed" holds ".."; nothing of it was written
    a name that climbs later: InvalidArgument: the tar entry "a/../../climbed" holds ".."; nothing of it was written
    an absolute name: InvalidArgument: the tar entry "/tmp/absolute" has an absolute name; nothing of it was written
    a name through a link: InvalidArgument: the tar entry out/through leads out of /workspace/in through a link
    a hard link to outside: InvalidArgument: the tar entry "/etc/passwd" has an absolute name; nothing of it was written
    a device: InvalidArgument: the tar entry device is a device; devices are not unpacked
    an empty name: InvalidArgument: the tar entry  has no name
    no tar: InvalidArgument: the tar stream is broken: numeric field was not a number: r at all when getting cksum for no tar at allno tar at allno tar at allno tar at allno tar at allno tar at allno tar at allno tar at
    half a tar: InvalidArgument: the tar stream is broken: failed to read entire block
    a relative folder: InvalidArgument: the path "workspace/in" is not absolute; give an absolute path inside the sandbox
    a folder that is a file: FailedPrecondition: /etc/passwd could not be entered: Not a directory (os error 20)
    "#);
    let found = gateway.shell("box", "ls /tmp; ls -A /workspace /workspace/in | grep -v '^$'").ok();
    insta::assert_snapshot!(found, @r#"
    /workspace:
    in
    /workspace/in:
    out
    "#);
    assert_eq!(upload(&gateway, "/workspace/in", tar("fine", file, "")), "taken", "it is not the form of the test");
}

#[test]
fn calls_that_no_command_line_makes_are_refused() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let told = gateway.ask(async |mut client| {
        let mut told = String::new();
        let mut tell = |what: &str, status: Option<tonic::Status>| {
            let status = status
                .map_or_else(|| "taken".to_owned(), |status| format!("{:?}: {}", status.code(), status.message()));
            writeln!(told, "{what}: {status}").expect("a string");
        };
        let create = |name: &str, request_id: &str, env: &[(&str, String)]| wire::CreateSandboxRequest {
            name: name.to_owned(),
            request_id: request_id.to_owned(),
            spec: Some(wire::SandboxSpec {
                env: env.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        tell("no sandbox is named", client.get_sandbox(wire::GetSandboxRequest::default()).await.err());
        tell(
            "a variable with a NUL",
            client.create_sandbox(create("box", "", &[("A", "a\0b".to_owned())])).await.err(),
        );
        tell(
            "a variable too long",
            client.create_sandbox(create("box", "", &[("A", "x".repeat(1 << 20))])).await.err(),
        );
        tell(
            "a message too long",
            client.create_sandbox(create("box", "", &[("A", "x".repeat(64 << 20))])).await.err(),
        );
        tell("a request id too long", client.create_sandbox(create("box", &"x".repeat(10_000), &[])).await.err());
        tell("a request id with a NUL", client.create_sandbox(create("box", "a\0b", &[])).await.err());
        let request = wire::WaitOperationRequest { operation: "op-none".to_owned() };
        let mut events = client.wait_operation(request).await.expect("a stream").into_inner();
        tell("an operation that is not there", events.message().await.err());
        let request = wire::ListSandboxesRequest { page_token: "../x".to_owned(), ..Default::default() };
        tell("a page that is not there", client.list_sandboxes(request).await.err());
        tell(
            "a page too long",
            client.list_sandboxes(wire::ListSandboxesRequest { page_size: 5000, ..Default::default() }).await.err(),
        );
        tell("exec without a start", client.exec_sandbox(iter([])).await.err());
        tell(
            "exec without a sandbox",
            client.exec_sandbox(iter([wire::ExecSandboxRequest { input: None }])).await.err(),
        );
        told
    });
    insta::assert_snapshot!(told, @r#"
    no sandbox is named: InvalidArgument: no sandbox is selected
    a variable with a NUL: InvalidArgument: the value of environment variable "A" contains a NUL byte
    a variable too long: InvalidArgument: the environment has 1048579 bytes, the limit is 131072
    a message too long: OutOfRange: Error, decoded message length too large: found 67108887 bytes, the limit is: 4194304 bytes
    a request id too long: InvalidArgument: request id "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is not valid
    a request id with a NUL: InvalidArgument: request id "a\0b" is not valid
    an operation that is not there: NotFound: there is no operation op-none
    a page that is not there: InvalidArgument: sandbox id "../x" is not valid
    a page too long: InvalidArgument: a page has at most 1000 sandboxes, not 5000
    exec without a start: InvalidArgument: the stream ended before its first messages
    exec without a sandbox: InvalidArgument: the first message must select the sandbox, the second must be the start
    "#);
    nothing_is_stored(&gateway);
}

#[test]
fn one_request_id_never_makes_two_sandboxes() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let create = |name: &str| {
        let request = wire::CreateSandboxRequest {
            name: name.to_owned(),
            request_id: "the-same".to_owned(),
            ..Default::default()
        };
        let answer = gateway.ask(async |mut client| client.create_sandbox(request).await);
        answer.map(|answer| answer.into_inner().sandbox.unwrap_or_default().id)
    };
    let first = create("box").expect("an answer");
    assert_eq!(create("box").expect("an answer"), first);
    let other = create("other").expect_err("another request with that id");
    insta::assert_snapshot!(format!("{:?}: {}", other.code(), other.message()), @r#"Aborted: request id "the-same" was used for another create request"#);
    gateway.until_idle();
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn configs_that_make_no_sense_are_refused_with_every_error_at_its_line() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let mut told = String::new();
    for (what, config) in [
        ("no TOML", "[compute\n"),
        ("unknown table", "[computer]\n"),
        ("unknown key", "[compute]\nextension = []\nextenssions = []\n"),
        ("wrong type", "[compute]\nextensions = \"noop\"\n"),
        ("unknown extension", "[compute]\nextensions = [\"flet-labels\"]\n"),
        ("extension listed twice", "[compute]\nextensions = [\"noop\", \"noop\"]\n"),
        ("extension without its config", "[compute]\nextensions = [\"address-lease\"]\n"),
        (
            "unknown key of an extension",
            "[compute]\nextensions = [\"fault\"]\n[compute.extension.\"fault\"]\nfolder = \"/tmp\"\nfalts = {}\n",
        ),
        (
            "a range that makes no sense",
            "[compute.extension.\"address-lease\"]\nrange = \"10.0.0.9-10.0.0.1\"\nfolder = \"leases\"\n",
        ),
        ("reserved label", "[compute.extension.\"fleet-labels\"]\nlabels = { \"chiton.dev/x\" = \"1\" }\n"),
        ("unknown driver", "[compute]\ndrivers = [\"docker\"]\n"),
        ("unknown key of a driver", "[compute.driver.oci]\nhost_imgae = true\n"),
        ("too long a grace", "[compute.driver.oci]\nstop_grace_seconds = 400\n"),
        ("zero deadline", "[compute.policy.\"noop\"]\ndeadline = \"0s\"\n"),
        ("deadline without unit", "[compute.policy.\"noop\"]\ndeadline = \"5\"\n"),
        ("policy of nobody", "[compute.policy.\"nop\"]\nfailure = \"optional\"\n"),
        ("activation without a rule", "[compute.policy.\"noop\"]\nactivation = \"match\"\n"),
        ("a secret in the file", "[secrets.key]\nvalue = \"hunter2\"\n"),
        ("a listener on the network", "[gateway]\nlisten = [\"0.0.0.0:80\"]\n"),
        ("metrics for everybody", "[metrics]\nlisten = \"0.0.0.0:9464\"\n"),
        ("several at once", "[log]\nlevel = \"loud\"\nformat = \"xml\"\n[sweep]\ninterval = -1\n"),
    ] {
        std::fs::write(gateway.path("bad.toml"), config).expect("a file");
        let Output { code, stdout, stderr } = gateway.chiton(&["config", "check", "--config", "bad.toml"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{what}: {stderr}");
        writeln!(told, "# {what}\n{}", stderr.trim_end()).expect("a string");
    }
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(told, @r#"
        # no TOML
        error: bad.toml:1: not valid TOML: unclosed table, expected `]` [invalid]
        # unknown table
        error: bad.toml:1: computer: unknown key [invalid]
          cure: did you mean "compute"?
        # unknown key
        error: bad.toml:2: compute.extension: is a list [invalid]
          cure: write a table
        error: bad.toml:3: compute.extenssions: unknown key [invalid]
          cure: did you mean "extensions"?
        # wrong type
        error: bad.toml:2: compute.extensions: is a string [invalid]
          cure: write a list of strings, for example ["a", "b"]
        # unknown extension
        error: bad.toml:2: compute.extensions[0]: unknown extension "flet-labels" [invalid]
          cure: did you mean "fleet-labels"?
        # extension listed twice
        error: bad.toml:2: compute.extensions[1]: extension "noop" is listed twice [invalid]
          cure: remove one of them
        # extension without its config
        error: bad.toml:2: compute.extension.address-lease: missing field `range` [invalid]
          cure: add a table [compute.extension.address-lease]
        # unknown key of an extension
        error: bad.toml:5: compute.extension.fault.falts: unknown field `falts`, expected one of `folder`, `faults`, `labels` [invalid]
          cure: did you mean "faults"?
        # a range that makes no sense
        error: bad.toml:2: compute.extension.address-lease.range: "10.0.0.9-10.0.0.1" ends before it begins [invalid]
          cure: write first and last address, for example "10.88.0.2-10.88.0.254"
        error: bad.toml:3: compute.extension.address-lease.folder: "leases" is not an absolute path [invalid]
          cure: begin it with "/"
        # reserved label
        error: bad.toml:2: compute.extension.fleet-labels.labels."chiton.dev/x": label "chiton.dev/x" is reserved: keys under "chiton.dev/" are set by the gateway [invalid]
          cure: choose a key without a reserved prefix; to ask for an extension use --extension
        # unknown driver
        error: bad.toml:2: compute.drivers: unknown driver "docker" [invalid]
          cure: known: oci; a name of your own needs a table [compute.driver.docker] with its kind
        # unknown key of a driver
        error: bad.toml:2: compute.driver.oci.host_imgae: unknown field `host_imgae`, expected one of `host_image`, `dir_roots`, `first_id`, `stop_grace_seconds`, `log_bytes` [invalid]
          cure: did you mean "host_image"?
        # too long a grace
        error: bad.toml:2: compute.driver.oci.stop_grace_seconds: more than 45 seconds do not fit into the deadline of a stop [invalid]
          cure: use at most 45
        # zero deadline
        error: bad.toml:2: compute.policy.noop.deadline: duration "0s" is too short [invalid]
          cure: write at least "1ms"
        # deadline without unit
        error: bad.toml:2: compute.policy.noop.deadline: duration "5" is not valid: it has no unit [invalid]
          cure: write a number and a unit, for example "30s"
        # policy of nobody
        error: bad.toml:1: compute.policy.nop: unknown extension "nop" [invalid]
          cure: did you mean "noop"?; if it was removed for good, set abandon = true
        # activation without a rule
        error: bad.toml:2: compute.policy.noop.match: activation needs a table "match" [invalid]
          cure: say for whom, for example match = { workspaces = ["default"] }
        # a secret in the file
        error: bad.toml:1: secrets.key: the secret has no source [invalid]
          cure: write either env = "NAME" or file = "/path"
        error: bad.toml:1: secrets.key: the secret says nothing about who may use it [invalid]
          cure: add for example allow = { workspaces = ["default"] }
        error: bad.toml:2: secrets.key.value: unknown key [invalid]
          cure: remove it; known here: env, file, allow
        # a listener on the network
        error: bad.toml:2: gateway.listen[0]: listening on "0.0.0.0:80" is not supported in this version [invalid]
          cure: use a Unix socket: "unix:/run/chiton/gateway.sock"
        # metrics for everybody
        error: bad.toml:2: metrics.listen: "0.0.0.0:9464" is not a loopback address [invalid]
          cure: metrics have no authentication: use 127.0.0.1, [::1] or a Unix socket, and a proxy in front of it
        # several at once
        error: bad.toml:2: log.level: "loud" is not a log level [invalid]
          cure: write one of off, error, warn, info, debug, trace, or target=level, separated by commas without spaces
        error: bad.toml:3: log.format: unknown value "xml" [invalid]
          cure: write one of "text", "json"
        error: bad.toml:5: sweep.interval: is an integer [invalid]
          cure: write a duration in quotes, for example "30s"
        "#);
    });
}
