//! What the fuzz targets call of the agent.

use std::path::Path;

use bytes::Bytes;
use chiton_agent_proto::v1::ExecStart;
use tonic::Status;

/// Unpacks an upload that arrives in these pieces; gives the number of entries. `finished` says whether it has its end
/// mark; a sparse file may expand to `sparse` bytes.
pub fn unpack(
    root: &Path,
    outside_links: bool,
    pieces: Vec<Bytes>,
    finished: bool,
    sparse: u64,
) -> Result<u64, Status> {
    crate::files::fuzzing::unpack(root, outside_links, pieces, finished, sparse)
}

/// Writes a file from an upload that arrives in these pieces; gives its size.
pub fn write_file(path: &str, mode: u32, pieces: Vec<Bytes>, finished: bool) -> Result<u64, Status> {
    crate::files::fuzzing::write_file(path, mode, pieces, finished)
}

/// The first input of an exec.
pub fn check_exec(start: &ExecStart) -> Result<(), Status> {
    crate::exec::Execs::check(start)
}
