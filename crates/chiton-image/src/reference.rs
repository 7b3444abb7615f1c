//! How images are named.

use std::fmt;
use std::path::PathBuf;

use crate::error::{ImageError, Result};
use crate::{Digest, Policy};

/// Where an image is, as its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A folder of the OCI image layout: `oci:PATH[:TAG]`.
    Layout {
        /// The folder, absolute.
        path: PathBuf,
        /// Which of its images; none when it has one only.
        tag: Option<String>,
    },
    /// A file that `docker save` or a builder of OCI archives wrote: `tar:PATH[:TAG]`.
    Archive {
        /// The file, absolute.
        path: PathBuf,
        /// Which of its images; none when it has one only.
        tag: Option<String>,
    },
    /// A repository of a registry: `HOST[:PORT]/NAME[:TAG][@DIGEST]`.
    Registry {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
        /// The tag; `latest` when the name has neither tag nor digest.
        tag: Option<String>,
        /// The digest, which counts more than the tag.
        digest: Option<Digest>,
    },
}

impl Reference {
    /// Reads a name. Names without a registry are looked up in the operator's default, and refused where there is none.
    pub fn parse(text: &str, policy: &Policy) -> Result<Self> {
        let wrong = |why: &str, cure: &str| ImageError::Reference {
            reference: chiton_model::printable(text),
            why: why.to_owned(),
            cure: cure.to_owned(),
        };
        if text.contains('\0') || text.len() > 4096 {
            return Err(wrong("it holds a NUL byte or is overlong", "name the image in less than 4096 characters"));
        }
        for (prefix, layout) in [("oci:", true), ("tar:", false)] {
            let Some(rest) = text.strip_prefix(prefix) else { continue };
            if !rest.starts_with('/') {
                return Err(wrong(
                    "its path is not absolute",
                    &format!("begin it with \"/\", for example \"{prefix}/srv/images/app\""),
                ));
            }
            let (path, tag) = match rest.rsplit_once(':') {
                Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
                _ => (rest, None),
            };
            let path = PathBuf::from(path);
            return Ok(if layout { Self::Layout { path, tag } } else { Self::Archive { path, tag } });
        }
        if text.contains("://") {
            return Err(wrong(
                "it has a scheme",
                "write the registry's host, a slash and the name, for example \"ghcr.io/owner/app:1\"",
            ));
        }
        Self::registry(text, policy, &wrong)
    }

    fn registry(text: &str, policy: &Policy, wrong: &dyn Fn(&str, &str) -> ImageError) -> Result<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|error: crate::NotADigest| wrong(&error.to_string(), "copy the digest whole"))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash belongs to the host's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("its tag is not valid", "a tag has 1 to 128 of A-Z, a-z, 0-9, \"_\", \".\" and \"-\""));
        }
        let named = name.split_once('/').filter(|(host, _)| is_host(host));
        let (registry, repository) = match (named, &policy.default_registry) {
            (Some((host, repository)), _) => (host.to_owned(), repository.to_owned()),
            (None, Some(default)) => (default.clone(), name.to_owned()),
            (None, None) => {
                return Err(wrong(
                    "it names no registry, and this gateway has no default one",
                    "write the registry too, for example \"docker.io/library/debian:12\", or use \"host\", \"dir:PATH\", \"oci:PATH\" or \"tar:PATH\"",
                ));
            }
        };
        let repository = match registry.as_str() {
            "docker.io" if !repository.contains('/') => format!("library/{repository}"),
            _ => repository,
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(wrong(
                "its name is not valid",
                "a repository has parts of a-z and 0-9 with single \".\", \"_\" or \"-\" between them, joined by \"/\"",
            ));
        }
        if !is_authority(&registry) {
            return Err(wrong("its registry is no host name", "write HOST or HOST:PORT"));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self::Registry { registry, repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, tag: &Option<String>| match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        };
        match self {
            Self::Layout { path, tag } => {
                write!(f, "oci:{}", path.display())?;
                tagged(f, tag)
            }
            Self::Archive { path, tag } => {
                write!(f, "tar:{}", path.display())?;
                tagged(f, tag)
            }
            Self::Registry { registry, repository, tag, digest } => {
                write!(f, "{registry}/{repository}")?;
                tagged(f, tag)?;
                match digest {
                    Some(digest) => write!(f, "@{digest}"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn is_tag(text: &str) -> bool {
    matches!(text.len(), 1..=128)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

/// Whether the first part of a name is a host and not a folder of a repository: the rule that all tools share.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':'])
}

fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
    let separators = ["..", ".-", "-.", "._", "_.", "-_", "_-", "___"];
    ends && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && !separators.iter().any(|pair| text.contains(pair))
}

/// Whether a text is a host with an optional port, and nothing that would change the meaning of an address.
pub fn is_authority(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = if let Some((inner, rest)) = bracketed {
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("x")) };
        (inner.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        let labels = host.split('.').all(|label| {
            matches!(label.len(), 1..=63)
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        (labels && host.len() <= 253, port)
    };
    host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether a registry is on this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None => registry.split(':').next().unwrap_or(""),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
