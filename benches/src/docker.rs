//! A container engine of this run's own, driven as its users do: by its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::gateway::Done;

/// How long the engine may take to listen.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `dockerd` with folders and a socket of its own.
pub(crate) struct Docker {
    daemon: Child,
    socket: PathBuf,
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            drop(self.daemon.wait());
        }
    }
}

impl Docker {
    /// Starts the engine with one image, or says why there is none.
    pub(crate) fn start(folder: &Path, rootfs: &Path) -> Done<Option<Self>> {
        let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !there("dockerd") || !there("docker") {
            println!("SKIPPED docker: dockerd or its client is not installed (Debian: docker.io)");
            return Ok(None);
        }
        let folder = folder.join("docker");
        fs::create_dir_all(&folder)?;
        let socket = folder.join("docker.sock");
        let log = fs::File::create(folder.join("log"))?;
        let daemon = Command::new("dockerd")
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Self { daemon, socket };
        let begin = Instant::now();
        while docker.run(&["info"]).is_err() {
            if begin.elapsed() > PATIENCE {
                return Err(format!("dockerd does not answer; see {}", folder.join("log").display()).into());
            }
            #[expect(clippy::disallowed_methods, reason = "the engine says by no event that it listens")]
            std::thread::sleep(Duration::from_millis(50));
        }
        let packed = folder.join("image.tar");
        let tar = Command::new("tar").arg("-C").arg(rootfs).arg("-cf").arg(&packed).arg(".").status()?;
        if !tar.success() {
            return Err("tar failed".into());
        }
        docker.run(&["import", &packed.to_string_lossy(), "bench"])?;
        Ok(Some(docker))
    }

    /// One command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done<Duration> {
        let begin = Instant::now();
        let output = Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let took = begin.elapsed();
        if output.status.success() {
            return Ok(took);
        }
        Err(format!("docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    /// `docker run` of a container with the limits that our sandboxes have.
    pub(crate) fn create(&self, name: &str) -> Done<Duration> {
        let limits = ["--memory", "256m", "--pids-limit", "256"];
        let command = ["bench", "/bin/sleep", "600"];
        self.run(&[&["run", "--detach", "--network", "none", "--name", name][..], &limits, &command].concat())
    }
}
