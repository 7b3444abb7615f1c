//! `tenant SOCKET`: serves the extension until SIGTERM.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use chiton_model::Error;

fn main() -> Result<(), Error> {
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let socket = socket.ok_or_else(|| Error::invalid("SOCKET", "no socket is named").cure("tenant PATH"))?;
    chiton_extension_process::server::serve([chiton_example_composed_driver::extension()?], &socket)
}
