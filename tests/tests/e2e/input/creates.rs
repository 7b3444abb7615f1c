//! Requests for sandboxes that make no sense.

use super::{answers, filters, nothing_is_stored};
use crate::harness::{Gateway, root};
use crate::life::CHAIN;

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
        ("digest that was cut off", &["box", "--expect-plan", "sha256:0123abcd"]),
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
        error: image "nope": it names no registry, and this gateway has no default one [invalid]
          cure: write the registry too, for example "docker.io/library/debian:12", or use "host", "dir:PATH", "oci:PATH" or "tar:PATH"
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
          cure: did you mean "oci"? configured: oci
        # driver config without driver: 1
        error: options of a driver's own need to say which driver [invalid]
          cure: add --driver ID
        # driver config that is no JSON: 1
        error: the options of driver "oci" are not JSON: key must be a string at line 1 column 2 [invalid]
          cure: write {"option": value}
        # driver config that is no object: 1
        error: the options of driver "oci" are not a JSON object [invalid]
          cure: write {"option": value}
        # driver config with an unknown key: 1
        error: the oci driver has no option "netwrok" [invalid]
          cure: the options are disk, hostname, image_command, read_only, security, stop_grace_seconds
        # extension of no such name: 1
        error: extension "fleet-label" is not one that this gateway offers [refused]
          cure: did you mean "fleet-labels"?
        # extension name of a wrong form: 1
        error: extension name "Fleet Labels" is not valid [invalid]
          cure: use 1 to 63 lower-case letters, digits and inner hyphens
        # malformed digest: 1
        error: "md5:1" is not a plan's digest: sha256: and 64 lower-case hexadecimal digits [invalid]
          cure: pass the digest that chiton plan prints, whole
        # digest that was cut off: 1
        error: "sha256:0123abcd" is not a plan's digest: sha256: and 64 lower-case hexadecimal digits [invalid]
          cure: pass the digest that chiton plan prints, whole
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
