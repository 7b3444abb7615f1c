//! The scripted driver on a socket of its own, and the kit's options for it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver_conform::{Group, Limits, Options, Report, Restart, run};
use chiton_driver_scripted::{Fault, Platform, Script, Server};
use tokio::sync::Mutex;

/// A driver that is served until this is dropped.
pub(crate) struct Driver {
    folder: tempfile::TempDir,
    platform: Arc<Platform>,
    script: Script,
    server: Arc<Mutex<Option<Server>>>,
}

/// How late the scripted driver's late answers are: later than [`hasty`] allows by far.
const LATE: Duration = Duration::from_mins(2);

/// Of a driver from which all comes: a machine that is busy with other tests is waited for.
pub(crate) fn patient() -> Limits {
    let minute = Duration::from_mins(1);
    Limits {
        dial: minute,
        call: minute,
        create: minute,
        act: minute,
        delete: minute,
        ready: minute,
        event: minute,
        quiet: Duration::from_millis(150),
    }
}

/// Short, so that what never comes is missed soon; long enough for a machine that is busy with other tests.
pub(crate) fn hasty() -> Limits {
    let seconds = Duration::from_secs;
    Limits {
        dial: seconds(20),
        call: seconds(6),
        create: seconds(6),
        act: seconds(8),
        delete: seconds(8),
        ready: seconds(8),
        event: seconds(6),
        quiet: Duration::from_millis(150),
    }
}

impl Driver {
    pub(crate) fn with(faults: &[Fault]) -> Self {
        Self::scripted(Script { faults: faults.iter().copied().collect(), ..Script::default() })
    }

    /// One that knows only the public contract.
    pub(crate) fn stock() -> Self {
        Self::scripted(Script { stock: true, ..Script::default() })
    }

    fn scripted(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Script { late: LATE, ..script };
        let platform = Platform::new(script.faults.clone(), Duration::ZERO, None).unwrap();
        let server = Server::start(&folder.path().join("driver.sock"), &platform, script.clone()).unwrap();
        Self { folder, platform, script, server: Arc::new(Mutex::new(Some(server))) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("driver.sock")
    }

    /// Another server on the same platform, as after a crash.
    pub(crate) fn restart(&self) -> Restart {
        let (server, platform) = (Arc::clone(&self.server), Arc::clone(&self.platform));
        let (socket, script) = (self.socket(), self.script.clone());
        Restart::With(Arc::new(move || {
            let (server, platform) = (Arc::clone(&server), Arc::clone(&platform));
            let (socket, script) = (socket.clone(), script.clone());
            Box::pin(async move {
                let mut server = server.lock().await;
                drop(server.take());
                *server = Some(Server::start(&socket, &platform, script).map_err(|error| error.message)?);
                Ok(())
            })
        }))
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            limits: patient(),
            restart: Some(self.restart()),
            groups: [Group::Wire].into(),
            ..Options::new(self.socket())
        }
    }

    pub(crate) async fn report(&self) -> Report {
        self.report_within(patient()).await
    }

    pub(crate) async fn report_within(&self, limits: Limits) -> Report {
        run(Options { limits, ..self.options() }, |_| {}).await.unwrap()
    }
}
