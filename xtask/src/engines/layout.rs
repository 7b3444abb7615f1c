//! Where a set of engines keeps what it has, and the names of what it makes outside of its folder.
//!
//! Everything is below one folder, `/var/cache/chiton-engines` unless told otherwise, because
//! - a Unix socket's path has at most 107 bytes, and a cargo target folder may be deep;
//! - an ordinary user must reach its part, and a target folder may be below root's home;
//! - layers need a file system with room that takes overlays and extended attributes, which `/run` and `/tmp` need not be;
//! - podman covers `/run` and, where there is no `/var/lib/cni`, `/var/lib` while it makes an ordinary user's network, and
//!   would not find what it needs below either.

use std::env;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) const DEFAULT: &str = "/var/cache/chiton-engines";
/// What podman mounts over when it makes a network without root.
const COVERED: [&str; 2] = ["/run", "/var/lib"];
/// `sun_path` of unix(7) without its final zero.
const LONGEST_SOCKET: usize = 107;

/// The places of one set.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) home: PathBuf,
    /// What distinguishes names of this set on this machine: 6 hexadecimal digits of the folder's path.
    tag: String,
}

impl Layout {
    /// A set in `home`: `--dir`, else `ENGINES_DIR`, else the default.
    pub(crate) fn new(home: Option<PathBuf>) -> Result<Self, String> {
        let home = home.or_else(|| env::var_os("ENGINES_DIR").map(PathBuf::from)).unwrap_or_else(|| DEFAULT.into());
        let home = std::path::absolute(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let tag = hex::encode(&Sha256::digest(home.as_os_str().as_encoded_bytes())[..3]);
        let layout = Self { home, tag };
        let text = layout.home.to_str().filter(|text| text.chars().all(|c| c.is_ascii_graphic() && c != '"'));
        let Some(text) = text else {
            return Err(format!("{}: the folder of engines needs a plain name without blanks", layout.home.display()));
        };
        if COVERED.iter().any(|covered| layout.home.starts_with(covered)) {
            return Err(format!(
                "{text}: podman of an ordinary user hides {} from itself while it makes a network; choose another --dir",
                COVERED.join(" and ")
            ));
        }
        let longest = layout.socket(Engine::Rootless).as_os_str().len();
        if longest > LONGEST_SOCKET {
            return Err(format!(
                "{text}: sockets below it would have paths of {longest} bytes, and {LONGEST_SOCKET} is the most; choose a shorter --dir"
            ));
        }
        Ok(layout)
    }

    pub(crate) fn of(&self, engine: Engine) -> PathBuf {
        self.home.join(engine.name())
    }

    /// Where an engine listens.
    pub(crate) fn socket(&self, engine: Engine) -> PathBuf {
        // Beside what the engine owns: a user's service makes its own socket, and root's folders are closed to it.
        match engine {
            Engine::Docker | Engine::Podman => self.home.join(format!("{}.sock", engine.name())),
            Engine::Rootless => self.of(engine).join("podman.sock"),
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state.json")
    }

    pub(crate) fn env(&self) -> PathBuf {
        self.home.join("env")
    }

    /// This program, where it stays although the target folder changes.
    pub(crate) fn control(&self) -> PathBuf {
        self.home.join("control")
    }

    pub(crate) fn archive(&self, user: bool) -> PathBuf {
        self.home.join(if user { "image-app.tar" } else { "image.tar" })
    }

    /// Docker's and podman's default bridges; an interface's name has at most 15 bytes.
    pub(crate) fn bridge(&self, engine: Engine) -> String {
        format!("ce{}{}", &engine.name()[..1], self.tag)
    }

    /// Where docker puts its containers in every cgroup hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("chiton-engines-{}", self.tag)
    }

    /// The ordinary user whose engine is the third.
    pub(crate) fn user(&self) -> String {
        format!("chiton-eng-{}", self.tag)
    }

    /// That user's `XDG_RUNTIME_DIR`. Below `/run`, for podman makes networks of ordinary users in a mount namespace with a
    /// `/run` of their own, and expects to find the folder again in there.
    pub(crate) fn runtime(&self) -> PathBuf {
        Path::new("/run").join(self.user())
    }

    /// The marker in the environment of everything that this starts.
    pub(crate) fn marker(&self) -> String {
        format!("{MARKER}={}", self.home.display())
    }

    /// Whether text names something below the folder.
    pub(crate) fn is_named_in(&self, text: &str) -> bool {
        let home = self.home.to_string_lossy();
        text.match_indices(&*home).any(|(at, _)| text[at + home.len()..].starts_with('/'))
    }
}

pub(crate) const MARKER: &str = "ENGINES_OWNER";

/// The engines of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    Podman,
    /// Podman of an ordinary user.
    Rootless,
}

impl Engine {
    pub(crate) const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Rootless];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Rootless => "rootless",
        }
    }

    /// The variable that tells tests its socket.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Docker => "ENGINES_DOCKER",
            Self::Podman => "ENGINES_PODMAN",
            Self::Rootless => "ENGINES_PODMAN_ROOTLESS",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
}
