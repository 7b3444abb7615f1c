//! An agent that lies, in the place of the real one, which is held still.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};

use super::Scene;

/// The program, on the host.
const LIAR: &str = env!("CARGO_BIN_EXE_chiton-liar");
/// No step of it takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_mins(2);
/// How long a token is: 32 bytes in hexadecimal digits.
const TOKEN: usize = 64;

/// The token and the attempt of a sandbox's agent, read as only the host's root can: out of its memory.
#[track_caller]
pub(super) fn secrets(scene: &Scene, name: &str) -> (String, String) {
    let pid = scene.agent(name);
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    let environment = String::from_utf8_lossy(&environment);
    let attempt = environment.split('\0').find_map(|line| line.strip_prefix("CHITON_AGENT_ATTEMPT="));
    let attempt = attempt.expect("the agent was given an attempt").to_owned();
    let end = Instant::now() + Duration::from_mins(1);
    let mut found = tokens(pid);
    // While it works, a part of it may look like one, or be read half.
    while found.len() != 1 && Instant::now() < end {
        found = tokens(pid);
    }
    assert_eq!(found.len(), 1, "an agent knows one token: {found:?}");
    (found.pop_first().expect("one"), attempt)
}

/// What is written like a token in the memory of a process.
fn tokens(pid: i32) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its map");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut found = BTreeSet::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two ends");
        let end = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let mut bytes = vec![0; usize::try_from(end(to) - end(from)).expect("a size")];
        // What cannot be read holds no token: the kernel's own pages.
        if memory.seek(SeekFrom::Start(end(from))).is_ok() && memory.read_exact(&mut bytes).is_ok() {
            let runs = bytes.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            found.extend(runs.filter(|run| run.len() == TOKEN).map(|run| String::from_utf8_lossy(run).into_owned()));
        }
    }
    found
}

/// Waits for something to be written, or a moment: that a program was executed makes no news.
fn next(news: &OwnedFd) {
    let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    poll(&mut [PollFd::new(news, PollFlags::IN)], Some(&moment)).expect("a wait");
    // All of it at once; that there is none is no error here.
    _ = rustix::io::read(news, &mut [0_u8; 4096][..]);
}

/// A sandbox in which the agent is held still and a liar takes its place, as often as wanted.
pub(super) struct Liar<'a> {
    scene: &'a Scene,
    agent: i32,
    token: String,
    attempt: String,
    /// How many orders were given: each is answered in a file of its own.
    orders: Cell<u32>,
}

impl<'a> Liar<'a> {
    /// Puts the program into `box`, and holds the agent.
    #[track_caller]
    pub(super) fn new(scene: &'a Scene) -> Self {
        let gateway = &scene.gateway;
        gateway.chiton(&["sandbox", "cp", LIAR, "box:/workspace/liar"]).ok();
        let (token, attempt) = secrets(scene, "box");
        let agent = scene.agent("box");
        // Takes orders from a file, because there will be no agent to give them to. What it runs is in nobody's session.
        let script = "while :; do until [ -s /workspace/order ]; do sleep 0.02; done; \
                      set -- $(cat /workspace/order); : > /workspace/order; \
                      said=$1; shift; /workspace/liar /run/chiton/agent.sock \"$@\" > $said 2>&1; echo ended >> $said; done";
        let begin = format!(
            "echo '{script}' > /workspace/loop; : > /workspace/order; setsid sh /workspace/loop </dev/null >/dev/null 2>&1 &"
        );
        gateway.shell("box", &begin).ok();
        kill_process(Pid::from_raw(agent).expect("a process id"), Signal::STOP).expect("a signal");
        Self { scene, agent, token, attempt, orders: Cell::new(0) }
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/root/workspace/{name}", self.agent)
    }

    /// Lets the liar do something with what it knows, and waits until it has said `until`.
    #[track_caller]
    pub(super) fn order(&self, what: &str, until: &str) -> String {
        self.order_as(&self.token, &self.attempt, what, until)
    }

    /// The same with a token and an attempt that it may not have.
    #[track_caller]
    pub(super) fn order_as(&self, token: &str, attempt: &str, what: &str, until: &str) -> String {
        self.orders.set(self.orders.get() + 1);
        let order = format!("/workspace/said-{} {token} {attempt} {what}", self.orders.get());
        // Into a file that is there: the host's root has no id in an ordinary user's sandbox, so it can make none.
        let news = self.news();
        fs::write(self.path("order"), order).expect("an order");
        let begin = Instant::now();
        loop {
            let said = self.said();
            if said.contains(until) {
                return said;
            }
            let late = begin.elapsed() > DEADLINE;
            let over = late || said.contains("ended");
            assert!(!over, "{what}: it did not say {until:?}: {said:?}\n{}", self.scene.gateway.said());
            next(&news);
        }
    }

    /// Tells when something is written in the sandbox's folder.
    fn news(&self) -> OwnedFd {
        let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("a watch");
        inotify::add_watch(&news, self.path(""), inotify::WatchFlags::MODIFY).expect("a watch");
        news
    }

    /// Ends what the liar does.
    #[track_caller]
    pub(super) fn end(&self) {
        let (news, begin) = (self.news(), Instant::now());
        while !self.said().contains("ended") {
            for pid in self.pids() {
                _ = kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL);
            }
            assert!(begin.elapsed() < DEADLINE, "the liar does not end");
            next(&news);
        }
    }

    /// What came of the last order.
    fn said(&self) -> String {
        fs::read_to_string(self.path(&format!("said-{}", self.orders.get()))).unwrap_or_default()
    }

    /// The liar's own processes: those of its program in the sandbox's process namespace.
    fn pids(&self) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.agent);
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"/workspace/liar\0") && namespace(*pid) == own
        };
        pids.filter(is).collect()
    }
}

impl Drop for Liar<'_> {
    fn drop(&mut self) {
        // The agent goes on, so that the sandbox ends as any other. One that was deleted meanwhile is gone.
        if let Some(pid) = Pid::from_raw(self.agent) {
            _ = kill_process(pid, Signal::CONT);
        }
    }
}
