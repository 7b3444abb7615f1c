//! An SSH server like that in a sandbox: it lets anybody in, hands commands to a login shell, takes requests for variables
//! and signals and does nothing about them, and tells exit codes only of programs that were not ended by a signal.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use nix::pty::{Winsize, openpty};
use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session};
use russh::{Channel, ChannelId, Pty, Sig};
use rustix::io::ioctl_fionbio;
use rustix::termios::{Winsize as Size, tcsetwinsize};
use std::os::fd::OwnedFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a program's output is waited for after its end. Only what programs that were left behind write may be lost.
const LINGER: Duration = Duration::from_secs(30);

fn key() -> PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    // Of no worth: nobody checks it, and no network is between.
    KEY.get_or_init(|| {
        let seed = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]);
        PrivateKey::from(seed)
    })
    .clone()
}

pub(crate) async fn serve(stream: UnixStream, home: PathBuf) {
    let config = Config { keys: vec![key()], auth_rejection_time: Duration::from_secs(1), ..Config::default() };
    let server = Server { home, channels: HashMap::new() };
    if let Ok(session) = russh::server::run_stream(Arc::new(config), stream, server).await {
        // The client's end of the stream is an error or not, as it came.
        drop(session.await);
    }
}

struct Server {
    home: PathBuf,
    channels: HashMap<ChannelId, Open>,
}

#[derive(Default)]
struct Open {
    input: Option<mpsc::UnboundedSender<Vec<u8>>>,
    wanted: Option<(String, Winsize)>,
    terminal: Option<OwnedFd>,
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        assert_eq!(user, "sandbox");
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), Open::default());
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let small = |number: u32| u16::try_from(number).expect("a small number");
        let size = Winsize { ws_row: small(rows), ws_col: small(columns), ws_xpixel: 0, ws_ypixel: 0 };
        self.channels.get_mut(&channel).expect("open").wanted = Some((term.to_owned(), size));
        session.channel_success(channel)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let small = |number: u32| u16::try_from(number).expect("a small number");
        let size = Size { ws_row: small(rows), ws_col: small(columns), ws_xpixel: 0, ws_ypixel: 0 };
        if let Some(terminal) = &self.channels[&channel].terminal {
            tcsetwinsize(terminal, size).expect("resized");
        }
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn signal(&mut self, _: ChannelId, _: Sig, _: &mut Session) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let line = String::from_utf8_lossy(data).trim().to_owned();
        let open = self.channels.get_mut(&channel).expect("open");
        let mut command = Command::new("/bin/bash");
        if open.wanted.is_some() {
            // What the supervisor does by hand: a session of its own, with the terminal.
            command = Command::new("setsid");
            command.args(["--ctty", "/bin/bash"]);
        }
        command.arg("-lc").arg(line).env_clear().env("HOME", &self.home).env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(&self.home).kill_on_drop(true);
        let (sender, input) = mpsc::unbounded_channel();
        open.input = Some(sender);
        let handle = session.handle();
        if let Some((term, size)) = open.wanted.take() {
            let pair = openpty(Some(&size), None).expect("a terminal");
            let theirs = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
            command.env("TERM", term).stdin(theirs()).stdout(theirs()).stderr(theirs());
            open.terminal = Some(pair.master.try_clone().expect("a descriptor"));
            let child = command.spawn().expect("a shell");
            drop(command);
            drop(pair.slave);
            tokio::spawn(on_terminal(handle, channel, child, pair.master, input));
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().expect("a shell");
            tokio::spawn(on_pipes(handle, channel, child, input));
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        if let Some(input) = &self.channels[&channel].input {
            drop(input.send(data.to_vec()));
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.get_mut(&channel).expect("open").input = None;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }
}

type Input = mpsc::UnboundedReceiver<Vec<u8>>;

async fn on_pipes(handle: Handle, channel: ChannelId, mut child: tokio::process::Child, mut input: Input) {
    let mut stdin = child.stdin.take().expect("piped");
    tokio::spawn(async move {
        while let Some(bytes) = input.recv().await {
            if stdin.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let to = handle.clone();
    let out = tokio::spawn(async move {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut piece).await {
            drop(to.data(channel, Bytes::copy_from_slice(&piece[..length])).await);
        }
    });
    let to = handle.clone();
    let err = tokio::spawn(async move {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stderr.read(&mut piece).await {
            drop(to.extended_data(channel, 1, Bytes::copy_from_slice(&piece[..length])).await);
        }
    });
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(1);
    // Programs that were left behind hold the pipes; they are not waited for without an end.
    for reader in [out, err] {
        drop(timeout(LINGER, reader).await);
    }
    end(&handle, channel, code).await;
}

/// Until nobody is on the other end of the terminal, or nobody here: no thread waits for it, so a test that fails ends.
async fn on_terminal(
    handle: Handle,
    channel: ChannelId,
    mut child: tokio::process::Child,
    master: OwnedFd,
    mut input: Input,
) {
    ioctl_fionbio(&master, true).expect("a terminal");
    let keys = master.try_clone().expect("a descriptor");
    // Terminals are read and written as pipes are.
    let mut keys = pipe::Sender::from_owned_fd_unchecked(keys).expect("registered");
    let mut screen = pipe::Receiver::from_owned_fd_unchecked(master).expect("registered");
    let writer = tokio::spawn(async move {
        while let Some(bytes) = input.recv().await {
            if keys.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let to = handle.clone();
    let out = tokio::spawn(async move {
        let mut piece = [0; 4096];
        // A terminal without programs is an error to read.
        while let Ok(length @ 1..) = screen.read(&mut piece).await {
            drop(to.data(channel, Bytes::copy_from_slice(&piece[..length])).await);
        }
    });
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(1);
    drop(timeout(LINGER, out).await);
    writer.abort();
    end(&handle, channel, code).await;
}

async fn end(handle: &Handle, channel: ChannelId, code: i32) {
    let _ = handle.eof(channel).await;
    let _ = handle.exit_status_request(channel, code.unsigned_abs()).await;
    let _ = handle.close(channel).await;
}
