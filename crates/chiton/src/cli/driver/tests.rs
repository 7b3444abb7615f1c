use clap::Parser as _;

use super::{AgentKind, DriverCommand, DriversCommand, ReportForm, ServeArgs};
use crate::cli::{Cli, Command, ConformArgs, ConformCommand};

fn parse(line: &str) -> Result<Command, String> {
    let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
    match cli.fault() {
        Some(fault) => Err(fault.to_string()),
        None => Ok(cli.command),
    }
}

fn serve(line: &str) -> Result<ServeArgs, String> {
    match parse(&format!("chiton driver serve {line}"))? {
        Command::Driver(DriverCommand::Serve(args)) => Ok(args),
        other => panic!("another command: {other:?}"),
    }
}

fn conform(line: &str) -> Result<ConformArgs, String> {
    match parse(&format!("chiton conform driver {line}"))? {
        Command::Conform(ConformCommand::Driver(args)) => Ok(args),
        other => panic!("another command: {other:?}"),
    }
}

/// The first line of what is said about a line that makes no sense.
fn fault<T: std::fmt::Debug>(answer: Result<T, String>) -> String {
    let text = answer.expect_err("it was taken");
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn all_of_a_serve_line_is_taken() {
    let args = serve(
        "--driver docker --listen unix:///run/chiton/docker.sock --config /etc/c.toml --data-dir /srv \
         --supervisor-bin /usr/libexec/s --endpoint https://10.0.0.1:8080 --peer-uid 0 --peer-uid 1000",
    )
    .expect("it makes sense");
    assert_eq!((args.driver.as_str(), args.agent), ("docker", AgentKind::Openshell));
    let socket = args.listen.expect("an address");
    assert_eq!(socket.path(), std::path::Path::new("/run/chiton/docker.sock"));
    assert_eq!(socket.to_string(), "unix:///run/chiton/docker.sock");
    assert_eq!(args.peer_uid, [0, 1000]);
    assert_eq!(args.endpoint.as_deref(), Some("https://10.0.0.1:8080"));
    let args = serve("--driver oci --agent none").expect("systemd hands the socket over");
    assert_eq!((args.listen, args.agent), (None, AgentKind::None));
}

#[test]
fn a_socket_is_an_absolute_path() {
    for (text, why) in [
        ("unix://run/x.sock", "is not an absolute path"),
        ("x.sock", "is not an absolute path"),
        ("unix://", "the path is empty"),
        ("unix:", "the path is empty"),
        ("tcp://127.0.0.1:1", "is not an absolute path"),
        ("/run/x/", "is no path of a socket"),
    ] {
        let said = fault(serve(&format!("--driver oci --agent none --listen {text}")));
        assert!(said.contains(why) && said.contains("unix:///run/NAME.sock"), "{text}: {said}");
    }
    for text in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
        assert_eq!(conform(&format!("--socket {text}")).expect("a socket").socket.to_string(), "unix:///run/x.sock");
    }
}

#[test]
fn a_supervisor_and_who_talks_to_the_gateway_fit_together() {
    let said = fault(serve("--driver docker"));
    assert!(said.contains("--agent openshell needs the supervisor"), "{said}");
    let said = fault(serve("--driver docker --supervisor-bin /a --supervisor-image b"));
    assert!(said.contains("cannot be used with"), "{said}");
    for flag in ["--supervisor-bin /a", "--supervisor-image b", "--endpoint http://h:1"] {
        for agent in ["chiton", "none"] {
            let said = fault(serve(&format!("--driver docker --agent {agent} {flag}")));
            assert!(said.contains("goes with --agent openshell alone"), "{said}");
        }
    }
    serve("--driver docker --supervisor-image registry.example/s:1").expect("the default is openshell");
}

#[test]
fn a_user_id_is_one_that_there_can_be() {
    for text in ["-1", "4294967295", "ann", "1,2"] {
        assert!(serve(&format!("--driver oci --agent none --peer-uid={text}")).is_err(), "{text} was taken");
    }
    let args = serve("--driver oci --agent none --peer-uid 4294967294").expect("the highest");
    assert_eq!(args.peer_uid, [4_294_967_294]);
}

#[test]
fn an_endpoint_is_a_url_with_a_host_and_no_password() {
    for text in ["10.0.0.1:80", "http://", "https:///x", "ftp://h", "http://me:pw@h", "http://h\n"] {
        let line = ["chiton", "driver", "serve", "--driver", "oci", "--supervisor-bin", "/s", "--endpoint", text];
        assert!(Cli::try_parse_from(line).is_err(), "{text:?} was taken");
    }
}

#[test]
fn a_conform_line_names_a_socket_and_a_form() {
    let args = conform("--socket /run/k.sock --image x:1 --report junit --output /tmp/r.xml").expect("it makes sense");
    assert_eq!((args.image.as_deref(), args.report), (Some("x:1"), Some(ReportForm::Junit)));
    let said = conform("--image x").expect_err("which driver?");
    assert!(said.contains("--socket <PATH>"), "{said}");
    let said = conform("--socket /k --output /tmp/r").expect_err("a file of which form?");
    assert!(said.contains("--report"), "{said}");
    assert!(conform("--socket /k --report xml").is_err());
}

#[test]
fn drivers_alone_lists_and_so_does_the_word() {
    let drivers = |line: &str| match parse(line).expect("it makes sense") {
        Command::Drivers(args) => args,
        other => panic!("another command: {other:?}"),
    };
    assert!(drivers("chiton drivers").command.is_none());
    assert!(drivers("chiton drivers --wide").list.wide);
    let list = drivers("chiton drivers list --wide").command;
    assert!(matches!(list, Some(DriversCommand::List(list)) if list.wide));
    assert!(matches!(drivers("chiton drivers get kyma").command, Some(DriversCommand::Get { id }) if id == "kyma"));
}

#[test]
fn every_help_can_be_made() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
    for words in [&["driver", "serve"][..], &["conform", "driver"], &["drivers", "list"]] {
        let mut command = Cli::command();
        command.build();
        let mut found = &mut command;
        for word in words {
            found = found.find_subcommand_mut(word).expect("the command is there");
        }
        assert!(found.render_long_help().to_string().contains("Usage:"));
    }
}
