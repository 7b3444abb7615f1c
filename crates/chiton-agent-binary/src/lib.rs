//! The agent as one static executable, embedded in whoever uses this crate.
//!
//! It is mounted into sandboxes of any image, so it may need nothing of that image: no dynamic linker, no libc. A gateway
//! that carries it needs no file beside its own to be found, kept in step or trusted.
#![forbid(unsafe_code)]

/// The executable: ELF, static, for the target this crate was built for.
pub static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chiton-agent"));

/// Its SHA-256 in lower-case hexadecimal.
pub const SHA256: &str = env!("CHITON_AGENT_SHA256");
