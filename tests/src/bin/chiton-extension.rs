//! `chiton-extension SOCKET`: three extensions in a process of their own: the misbehaving one as `distant`, one that lies
//! as `liar`, and the example `tickets`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use chiton_model::{Error, ExtensionName};
use chiton_tests::{fault, liar};

fn main() -> Result<(), Error> {
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let socket = socket.ok_or_else(|| Error::invalid("SOCKET", "no socket is named").cure("name one"))?;
    let name = ExtensionName::new("distant")?;
    let distant = fault::extension()?.wrapped(|descriptor| descriptor.name = name, |extension| Arc::clone(&extension));
    chiton_extension_process::server::serve(
        [distant, liar::extension()?, chiton_example_extension_process::extension()?],
        &socket,
    )
}
