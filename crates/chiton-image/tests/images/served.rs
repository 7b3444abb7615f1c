//! A real registry server, and a front before it that can be told to misbehave.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chiton_image::Digest;

use crate::build::Image;

/// The server's program; without it these tests say by name that they are skipped, and fail where all parts must be.
const PROGRAM: &str = "/usr/bin/docker-registry";

pub(crate) fn present(test: &str) -> bool {
    let present = Path::new(PROGRAM).exists();
    assert!(
        present || std::env::var_os("CI").is_none(),
        "{PROGRAM} is missing; install the Debian package docker-registry"
    );
    if !present {
        eprintln!("SKIPPED {test}: {PROGRAM} is missing; install the Debian package docker-registry");
    }
    present
}

/// A registry on the loopback interface, with its data in a folder that the test can reach into.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    root: PathBuf,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// One that wants the name `me` and the password `open sesame`.
    pub(crate) fn closed() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: test\n    path: FOLDER/passwords\n")
    }

    fn with(more: &str) -> Self {
        // Between the look for a free port and its use somebody else may take it.
        for _ in 0..10 {
            if let Some(registry) = Self::attempt(more) {
                return registry;
            }
        }
        panic!("no registry could be started");
    }

    fn attempt(more: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("chiton-registry-").tempdir().unwrap();
        let path = folder.path().display().to_string();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let root = folder.path().join("data");
        fs::create_dir(&root).unwrap();
        // bcrypt, as the server wants it.
        fs::write(folder.path().join("passwords"), "me:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n")
            .unwrap();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {path}/data\nhttp:\n  addr: {address}\n  headers:\n    X-Served-From: [\"{path}\"]\n{}",
            more.replace("FOLDER", &path)
        );
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["serve", &format!("{path}/config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if answers(&address, &path) {
                return Some(Self { child, address, root, _folder: folder });
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            thread::yield_now();
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    fn write(&self, path: &str, data: &[u8]) {
        let path = self.root.join("docker/registry/v2").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    /// Where the server keeps a blob's bytes.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// Puts an image there, as a push leaves it.
    pub(crate) fn put(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs.iter().chain([&image.config, &image.manifest]) {
            let digest = Digest::of(blob);
            self.write(&format!("blobs/sha256/{}/{}/data", &digest.hex()[..2], digest.hex()), blob);
            self.write(
                &format!("repositories/{repository}/_layers/sha256/{}/link", digest.hex()),
                digest.to_string().as_bytes(),
            );
        }
        let digest = image.digest();
        let manifests = format!("repositories/{repository}/_manifests");
        for path in [
            format!("{manifests}/revisions/sha256/{}/link", digest.hex()),
            format!("{manifests}/tags/{tag}/current/link"),
            format!("{manifests}/tags/{tag}/index/sha256/{}/link", digest.hex()),
        ] {
            self.write(&path, digest.to_string().as_bytes());
        }
    }
}

impl Registry {
    /// Takes an image's manifest away, as a registry's owner may at any time.
    pub(crate) fn forget(&self, repository: &str, image: &Image) {
        let digest = image.digest().hex();
        for links in ["_manifests/revisions", "_layers"] {
            let link = format!("docker/registry/v2/repositories/{repository}/{links}/sha256/{digest}");
            fs::remove_dir_all(self.root.join(link)).unwrap();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the server whose data is in this folder answers there, and nobody who took the port before it.
fn answers(address: &str, folder: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer)?;
        io::Result::Ok(String::from_utf8_lossy(&answer).contains(folder))
    };
    ask().unwrap_or(false)
}

/// What the front does with the answers to requests for blobs.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    /// Answers are cut after so many bytes, so many times.
    pub(crate) cut: Option<(u64, Arc<AtomicU64>)>,
    /// After so many bytes an answer waits for a word.
    pub(crate) hold: Option<(u64, Arc<Mutex<Receiver<()>>>)>,
    /// So many bytes of an answer go in a second.
    pub(crate) slow: Option<usize>,
    /// Wants a token, given for the name `me` and the password `open sesame`.
    pub(crate) token: bool,
}

/// Stands before a registry.
pub(crate) struct Front {
    pub(crate) address: String,
    /// The request lines that came, and again with `LEFT` before those whose client went away while a slow answer came.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

pub(crate) fn gate() -> (Sender<()>, Arc<Mutex<Receiver<()>>>) {
    let (sender, receiver) = channel();
    (sender, Arc::new(Mutex::new(receiver)))
}

impl Front {
    pub(crate) fn start(behind: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (behind, own) = (behind.to_owned(), address.clone());
        let (lines, stop) = (Arc::clone(&asked), Arc::clone(&ended));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (behind, own, manner, lines) = (behind.clone(), own.clone(), manner.clone(), Arc::clone(&lines));
                thread::spawn(move || drop(serve(client, &behind, &own, &manner, &lines)));
            }
        });
        Self { address, asked, ended }
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(client: TcpStream, behind: &str, own: &str, manner: &Manner, lines: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut line, mut authorization, mut first) =
        (String::new(), String::new(), String::new(), String::new());
    while reader.read_line(&mut line)? > 0 {
        if first.is_empty() {
            line.trim().clone_into(&mut first);
            lines.lock().unwrap().push(first.clone());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization:") {
            line[line.len() - value.len()..].trim().clone_into(&mut authorization);
        } else if line == "\r\n" {
            break;
        } else if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
        line.clear();
    }
    let mut client = client;
    let answer = |client: &mut TcpStream, status: &str, headers: &str, body: &str| {
        write!(
            client,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if manner.token {
        if first.starts_with("GET /token?") {
            // "me:open sesame"
            let known = authorization == "Basic bWU6b3BlbiBzZXNhbWU=";
            let good =
                known && first.contains("scope=repository%3Aapp%3Apull") && first.contains("service=the+service");
            return if good {
                answer(&mut client, "200 OK", "", r#"{"token":"good"}"#)
            } else {
                answer(&mut client, "401 Unauthorized", "", "")
            };
        }
        if authorization != "Bearer good" {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"the service\",scope=\"repository:app:pull\"\r\n"
            );
            return answer(&mut client, "401 Unauthorized", &challenge, "");
        }
    }
    let mut server = TcpStream::connect(behind)?;
    write!(server, "{head}Connection: close\r\n")?;
    if !authorization.is_empty() && !manner.token {
        write!(server, "Authorization: {authorization}\r\n")?;
    }
    write!(server, "\r\n")?;
    let blob = first.contains("/blobs/");
    if let Some((bytes, times)) = manner.cut.as_ref().filter(|_| blob)
        && times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    {
        io::copy(&mut server.take(*bytes), &mut client)?;
        return client.shutdown(Shutdown::Both);
    }
    if let Some((bytes, gate)) = manner.hold.as_ref().filter(|_| blob) {
        io::copy(&mut (&mut server).take(*bytes), &mut client)?;
        client.flush()?;
        let _ = gate.lock().unwrap().recv();
    }
    if let Some(pace) = manner.slow.filter(|_| blob) {
        let mut piece = vec![0; pace / 10];
        loop {
            let read = server.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            if client.write_all(&piece[..read]).is_err() {
                lines.lock().unwrap().push(format!("LEFT {first}"));
                return Ok(());
            }
            let share = u32::try_from(read).unwrap_or(u32::MAX);
            #[expect(clippy::disallowed_methods, reason = "being slow is what is asked of it")]
            thread::sleep(Duration::from_secs(1) * share / u32::try_from(pace).unwrap_or(u32::MAX));
        }
    }
    io::copy(&mut server, &mut client).map(drop)
}
