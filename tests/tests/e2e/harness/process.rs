//! Its life: configured, started, killed, asked to end.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use chiton_proto::v1 as wire;
use chiton_tests::crash::leftovers;
use rustix::process::{Pid, Signal, kill_process};

use super::alone::Holder;
use super::{DEADLINE, Gateway, PROGRAM, Share, user, wait};

impl Gateway {
    /// Starts a gateway. `{folder}` in the config stands for the folder of the test.
    pub(crate) fn start(config: &str) -> Self {
        Self::sharing(config, Share::Part)
    }

    pub(crate) fn sharing(config: &str, share: Share) -> Self {
        Self::run_by(config, share, user::By::Root)
    }

    /// The same, in a network namespace of its own for all its lives, with a loopback interface and nothing else.
    pub(crate) fn on_a_network_of_its_own(config: &str, share: Share) -> Self {
        Self::of(config, share, user::By::Root, Some(Holder::new()))
    }

    /// The same, run by this kind of user.
    pub(crate) fn run_by(config: &str, share: Share, by: user::By) -> Self {
        Self::of(config, share, by, None)
    }

    fn of(config: &str, share: Share, by: user::By, network: Option<Holder>) -> Self {
        let lock = super::share(share);
        let folder = tempfile::Builder::new().prefix("chiton-e2e-").tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (said, news, surroundings) = (Arc::default(), Arc::default(), Vec::new());
        let user = (by == user::By::User).then(|| user::User::new(folder.path()));
        let program = match (&network, &user) {
            (Some(holder), _) => holder.program(),
            (None, Some(user)) => user.program(folder.path()),
            (None, None) => vec![PROGRAM.into()],
        };
        let mut gateway = Self {
            folder,
            child: None,
            surroundings,
            said,
            news,
            program,
            files: None,
            id: String::new(),
            runtime,
            _user: user,
            _network: network,
            _share: lock,
        };
        gateway.configure(config);
        gateway.begin();
        let info = gateway.ask(async |mut client| client.get_info(wire::GetInfoRequest {}).await);
        gateway.id = info.expect("facts").into_inner().gateway_id;
        gateway
    }

    /// Writes the config that the next start reads.
    pub(crate) fn configure(&self, config: &str) {
        let text = config.replace("{folder}", &self.folder.path().to_string_lossy());
        fs::write(self.path("chiton.toml"), text).expect("a config");
    }

    /// What the next start finds in its environment.
    pub(crate) fn surround(&mut self, variables: &[(&'static str, &str)]) {
        self.surroundings = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    }

    /// Starts the program and waits until it serves.
    #[track_caller]
    pub(crate) fn begin(&mut self) {
        self.begin_with(&[]);
    }

    /// The same with more arguments.
    #[track_caller]
    pub(crate) fn begin_with(&mut self, arguments: &[&str]) {
        if let Err(said) = self.try_begin_with(arguments) {
            panic!("the gateway did not start:\n{said}");
        }
    }

    /// Starts the program; what it said when it did not begin to serve.
    pub(crate) fn try_begin(&mut self) -> Result<(), String> {
        self.try_begin_with(&[])
    }

    /// The same with more arguments.
    pub(crate) fn try_begin_with(&mut self, arguments: &[&str]) -> Result<(), String> {
        assert!(self.child.is_none(), "the gateway runs already");
        let (program, rest) = self.program.split_first().expect("a program");
        let mut command = match self.files {
            None => Command::new(program),
            Some(files) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={files}:{files}")).arg("--").arg(program);
                command
            }
        };
        command.args(rest);
        let mut child = command
            .arg("gateway")
            .arg("--config")
            .arg(self.path("chiton.toml"))
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.surroundings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let (sender, served) = channel();
        let (said, news) = (Arc::clone(&self.said), Arc::clone(&self.news));
        let before = said.lock().expect("no panic while it is held").len();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let listening = line.starts_with("listening on ");
                said.lock().expect("no panic while it is held").push(line);
                news.notify_all();
                if listening {
                    _ = sender.send(());
                }
            }
        });
        self.child = Some(child);
        if wait(&served) {
            return Ok(());
        }
        self.kill();
        let said = self.said.lock().expect("no panic while it is held");
        Err(said[before..].join("\n"))
    }

    /// Another program is the gateway from its next start on.
    pub(crate) fn replace(&mut self, program: PathBuf) {
        self.program = vec![program];
    }

    /// What a restart of the machine does: every process dies at once, control groups and what is on a tmpfs are gone, and
    /// the kernel has another boot id. The gateway runs afterwards.
    #[track_caller]
    pub(crate) fn restart_machine(&mut self) {
        self.kill();
        let mut pids = leftovers::pids(&self.id, self.folder.path());
        // Monitors first: none may live to write down how its sandbox ended.
        pids.sort_by_key(|(_, what)| !what.contains(" monitor "));
        for (pid, _) in pids {
            // One that is gone needs no signal.
            let _ = kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL);
        }
        self.until_sandboxes_ended();
        leftovers::remove_groups(&self.id);
        fs::remove_dir_all(self.path("data/run")).expect("the run folder");
        fs::write(self.path("boot_id"), "00000000-1111-4222-8333-444444444444\n").expect("a boot id");
        let script = format!(
            "mount --bind '{}' /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
            self.path("boot_id").display()
        );
        self.program = ["unshare", "--mount", "sh", "-c", &script, PROGRAM].into_iter().map(PathBuf::from).collect();
        self.begin();
    }

    /// Ends the program as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks the program to end, and does not wait.
    pub(crate) fn ask_to_end(&self) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), Signal::TERM).expect("a signal");
        }
    }

    /// Asks the program to end and waits until it did.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.ask_to_end();
        let Some(mut child) = self.child.take() else { return };
        let (sender, ended) = channel();
        let waiting = std::thread::spawn(move || {
            let status = child.wait();
            _ = sender.send(());
            status
        });
        assert!(wait(&ended), "the gateway did not end within {DEADLINE:?} of SIGTERM:\n{}", self.said());
        let status = waiting.join().expect("a thread").expect("a status");
        assert!(status.success(), "the gateway ended with {status}:\n{}", self.said());
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub(crate) fn until_ended(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let process = rustix::process::pidfd_open(Pid::from_child(&child), rustix::process::PidfdFlags::empty());
        let process = process.expect("its handle");
        let limit = rustix::event::Timespec::try_from(DEADLINE).expect("a time");
        let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let count = rustix::event::poll(&mut ended, Some(&limit)).expect("a wait");
        drop(child.kill());
        let status = child.wait().expect("a status");
        assert_eq!(count, 1, "it did not end within {DEADLINE:?}:\n{}", self.said());
        assert!(!status.success(), "it ended as if all were well:\n{}", self.said());
    }

    /// How many files the program may have open from its next start on.
    pub(crate) fn limit_files(&mut self, files: Option<u32>) {
        self.files = files;
    }

    /// The program's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How much memory it holds now, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kibibytes * 1024
    }

    /// The processor time that it has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let pid = self.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its statistics");
        // After the name in brackets: state is field 3, utime and stime are 14 and 15 (proc(5)).
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        // /proc counts in hundredths of a second on every Linux (USER_HZ).
        Duration::from_millis(ticks * 10)
    }
}
