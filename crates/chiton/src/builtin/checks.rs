//! Collecting what is wrong with a driver's config, and the checks that several kinds share.

use std::path::Path;

use chiton_gateway::Finding;
use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::{Error, MemoryQuantity};

/// What is wrong with a config. Places are JSON pointers into the driver's own table.
#[derive(Debug, Default)]
pub(super) struct Issues(Vec<ConfigIssue>);

impl Issues {
    /// Everything that was found.
    pub(super) fn found(self) -> Vec<ConfigIssue> {
        self.0
    }

    /// One thing and its cure.
    pub(super) fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) {
        self.0.push(ConfigIssue { pointer: pointer.into(), message: message.into(), cure: Some(cure.into()) });
    }

    /// A path that must not depend on where the gateway was started.
    pub(super) fn absolute(&mut self, pointer: impl Into<String>, path: &Path) {
        if !path.is_absolute() {
            self.add(pointer, format!("{path:?} is not an absolute path"), "begin it with \"/\"");
        }
    }

    /// How long a main process may take to end by itself, in seconds.
    pub(super) fn stop_grace(&mut self, pointer: &str, seconds: Option<u64>) {
        if seconds.is_some_and(|seconds| seconds > 45) {
            self.add(pointer, "more than 45 seconds do not fit into the deadline of a stop", "use at most 45");
        }
    }

    /// How many bytes of output are kept.
    pub(super) fn log_bytes(&mut self, pointer: &str, bytes: Option<u64>) {
        if bytes.is_some_and(|bytes| bytes < 4096) {
            self.add(pointer, "a log of less than 4096 bytes holds no output", "use at least 4096");
        }
    }

    /// The memory of a sandbox whose request names none.
    pub(super) fn memory(&mut self, pointer: &str, memory: Option<&MemoryQuantity>, least: u64) {
        if let Some(memory) = memory.filter(|memory| memory.bytes() < least) {
            let mebibytes = least >> 20;
            let message = format!("{memory} is less than the {mebibytes} MiB in which a sandbox can start");
            self.add(pointer, message, format!("use at least \"{mebibytes}Mi\", or leave it out"));
        }
    }

    /// How much a file system of a sandbox's own may hold.
    pub(super) fn disk(&mut self, pointer: &str, size: Option<&MemoryQuantity>) {
        if size.is_some_and(|size| size.bytes() < 8 << 20) {
            self.add(pointer, "less than 8 MiB hold no file system", "use at least \"8Mi\"");
        }
    }
}

/// A name as a part of a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// What a doctor finds where the config itself stops it.
pub(super) fn unusable(error: Error) -> Finding {
    let cure = error.cure.unwrap_or_default();
    Finding { check: "config".to_owned(), ok: false, detail: error.message, cure }
}
