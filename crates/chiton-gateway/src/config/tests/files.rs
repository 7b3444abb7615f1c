use std::fs;

use nix::sys::stat::Mode;

use super::super::{Flags, MAX_FILE, Origin, Sources, read};
use super::{bad, file};

#[test]
fn a_readable_file_is_its_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chiton.toml");
    fs::write(&path, "[log]\n").expect("written");
    assert_eq!(read(&path).expect("readable"), "[log]\n");
}

#[test]
fn a_missing_file_is_named_with_a_cure() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chiton.toml");
    let error = read(&path).expect_err("it is not there");
    assert_eq!(
        error.to_string().replace(path.to_str().expect("UTF-8"), "FILE"),
        "FILE: the config file does not exist; correct --config, or write one: chiton config show --default"
    );
}

#[test]
fn folders_and_fifos_are_refused_and_never_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
    for path in [folder.path(), &fifo] {
        let error = read(path).expect_err("not a regular file");
        assert_eq!(error.message, "the config is not a regular file");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chiton.toml");
    fs::write(&path, b"[log]\n# fine\nlevel = \"\xff\"\n").expect("written");
    let error = read(&path).expect_err("not UTF-8");
    assert_eq!((error.line(), error.message.as_str()), (Some(3), "the config file is not valid UTF-8 from here on"));
}

#[test]
fn a_file_above_the_limit_is_refused_by_read_and_by_load_and_one_at_the_limit_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chiton.toml");
    let text = format!("#{}", "x".repeat(MAX_FILE));
    fs::write(&path, &text).expect("written");
    assert_eq!(read(&path).expect_err("too large").message, "the config file is larger than 1048576 bytes");
    assert_eq!(
        bad(&file(&text)),
        "chiton.toml: the config file is larger than 1048576 bytes; check that --config names the right file"
    );
    fs::write(&path, &text[..MAX_FILE]).expect("written");
    super::good(&file(&read(&path).expect("at the limit")));
}

#[test]
fn this_processs_sources_are_gathered_with_the_file_that_the_flags_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chiton.toml");
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    let errors = Sources::gather(flags.clone()).expect_err("the file is not there");
    assert_eq!(errors[0].origin, Origin::File { path: path.clone(), line: None });
    fs::write(&path, "[log]\n").expect("written");
    let sources = Sources::gather(flags).expect("all is there");
    assert_eq!(sources.file, Some((path, "[log]\n".to_owned())));
    assert_eq!(sources.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(sources.cwd, std::env::current_dir().expect("a working folder"));
    assert_eq!(sources.env.get("PATH"), std::env::var("PATH").ok().as_ref());
}
