use super::*;

const SECRET: &str = "s3cr3t-of-the-test";

fn vars(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let socket = [("CHITON_AGENT_SOCKET", "/run/agent.sock"), ("PATH", "/bin"), ("KEPT", "own")];
    socket.iter().chain(list).map(|(name, value)| (name.into(), value.into())).collect()
}

fn read(list: &[(&str, &str)], input: impl FnOnce() -> Result<Document, LaunchError>) -> Result<Config, ConfigError> {
    Config::read(["--", "true"].map(OsString::from).into_iter(), vars(list).into_iter(), input)
}

fn unasked() -> Result<Document, LaunchError> {
    panic!("standard input was read")
}

#[test]
fn the_document_is_laid_over_the_environment() {
    let document = || {
        let mut document = Document::new(SECRET, "a-7");
        document.env =
            BTreeMap::from([("PATH", "/own"), ("NEW", "1")].map(|(name, value)| (name.into(), value.into())));
        Ok(document)
    };
    let config = read(&[("CHITON_AGENT_LAUNCH", "stdin"), ("CHITON_OTHER", "1")], document).expect("a configuration");
    assert_eq!((config.token.as_str(), config.attempt.as_str(), config.exposed), (SECRET, "a-7", false));
    let wanted = [("KEPT", "own"), ("NEW", "1"), ("PATH", "/own")];
    assert_eq!(config.env, wanted.map(|(name, value)| (name.into(), value.into())).into());
}

#[test]
fn without_the_variable_the_environment_tells_it_and_standard_input_is_left_alone() {
    let list = [("CHITON_AGENT_TOKEN", SECRET), ("CHITON_AGENT_ATTEMPT", "a-7")];
    let config = read(&list, unasked).expect("a configuration");
    assert_eq!((config.token.as_str(), config.attempt.as_str(), config.exposed), (SECRET, "a-7", true));
    assert_eq!(config.env, [("KEPT", "own"), ("PATH", "/bin")].map(|(name, value)| (name.into(), value.into())).into());
}

#[test]
fn another_way_of_launching_or_both_ways_at_once_are_refused_before_anything_is_read() {
    for value in ["", "env", "STDIN", "stdin "] {
        let error = read(&[("CHITON_AGENT_LAUNCH", value)], unasked).err().expect("refused").to_string();
        assert!(error.contains("the only value allowed is \"stdin\""), "{error}");
    }
    for name in TOLD {
        for value in ["", SECRET] {
            let error = read(&[("CHITON_AGENT_LAUNCH", "stdin"), (name, value)], unasked).err().expect("refused");
            assert!(matches!(error, ConfigError::Exposed(told) if told == name), "{error}");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
    }
    let relative = [("CHITON_AGENT_LAUNCH", "stdin"), ("CHITON_AGENT_WORKDIR", "here")];
    assert!(matches!(read(&relative, unasked), Err(ConfigError::NotAbsolute("CHITON_AGENT_WORKDIR", _))));
}
