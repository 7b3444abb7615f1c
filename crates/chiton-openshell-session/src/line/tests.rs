use std::process::Command;

use chiton_proto::agent::v1::{ExecStart, WindowSize};
use proptest::prelude::*;

use super::{LONGEST, quote, run};

/// What a shell makes of a line's words, each ended by a zero byte.
fn words(shell: &str, line: &str) -> Vec<u8> {
    let script = format!("printf '%s\\0' {line}");
    Command::new(shell).arg("-c").arg(script).output().expect("a shell").stdout
}

fn start(argv: &[&str]) -> ExecStart {
    ExecStart { argv: argv.iter().map(|&text| text.to_owned()).collect(), ..ExecStart::default() }
}

/// Text that shells like to make something of.
fn nasty() -> impl Strategy<Value = String> {
    let letter = prop_oneof![
        Just('\''),
        Just('"'),
        Just('\\'),
        Just('\n'),
        Just('\r'),
        Just('\t'),
        Just('$'),
        Just('`'),
        Just('!'),
        Just('*'),
        Just('~'),
        Just(';'),
        Just('&'),
        Just('|'),
        Just('#'),
        Just('='),
        Just(' '),
        Just('-'),
        Just('\u{7f}'),
        Just('\u{1b}'),
        Just('é'),
        Just('\u{202e}'),
        Just('💥'),
        any::<char>().prop_filter("no program can be given it", |letter| *letter != '\0'),
    ];
    proptest::collection::vec(letter, 0..24).prop_map(|letters| letters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_quoted_text_is_one_word_that_says_the_same(texts in proptest::collection::vec(nasty(), 1..6)) {
        let line: Vec<String> = texts.iter().map(|text| quote(text)).collect();
        let expected: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        prop_assert_eq!(&words("sh", &line.join(" ")), &expected);
        prop_assert_eq!(&words("bash", &line.join(" ")), &expected);
    }

    #[test]
    fn a_program_gets_its_arguments_environment_and_nothing_else(
        arguments in proptest::collection::vec(nasty(), 0..5),
        value in nasty(),
    ) {
        let mut wanted = start(&["sh", "-c", r#"printf '%s\0' "$VALUE" "$@""#, "name"]);
        wanted.argv.extend(arguments.iter().cloned());
        wanted.env.insert("VALUE".to_owned(), value.clone());
        let line = run(&wanted, "mark").expect("a line");
        // As the supervisor's SSH server does it.
        let output = Command::new("bash").arg("-lc").arg(&line).output().expect("a shell");
        let expected: Vec<u8> =
            std::iter::once(&value).chain(&arguments).flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        let told = output.stdout.iter().position(|byte| *byte == b'\n').expect("a line with the mark");
        prop_assert_eq!(&output.stdout[told + 1..], &expected[..]);
        prop_assert_eq!(output.stderr, b"mark\n".to_vec());
    }
}

#[test]
fn what_no_line_can_carry_is_refused_with_the_reason() {
    let cases = [
        (start(&[]), "no program"),
        (start(&[""]), "no program"),
        (start(&["echo", "a\0b"]), "zero byte"),
        (ExecStart { workdir: "here".to_owned(), ..start(&["true"]) }, "absolute"),
        (ExecStart { env: [("-x".to_owned(), String::new())].into(), ..start(&["true"]) }, "name of a variable"),
        (ExecStart { env: [("A=B".to_owned(), String::new())].into(), ..start(&["true"]) }, "name of a variable"),
    ];
    for (wanted, reason) in cases {
        let status = run(&wanted, "mark").expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(reason), "{}", status.message());
    }
    let status = run(&start(&["echo", &"x".repeat(LONGEST)]), "mark").expect_err("refused");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("standard input"), "{}", status.message());
}

#[test]
fn the_line_begins_and_ends_with_what_a_server_that_trims_it_leaves_alone() {
    for terminal in [None, Some(WindowSize { rows: 1, columns: 1 })] {
        let line = run(&ExecStart { terminal, ..start(&["echo", " \n"]) }, "mark").expect("a line");
        assert_eq!(line.trim(), line);
    }
}
