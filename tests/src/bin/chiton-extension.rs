//! `chiton-extension SOCKET`: four extensions in a process of their own: the misbehaving one as `distant`, one that lies
//! as `liar`, and the examples `tickets` and `tenant`.
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
    let (tickets, tenant) =
        (chiton_example_extension_process::extension()?, chiton_example_composed_driver::extension()?);
    chiton_extension_process::server::serve([distant, liar::extension()?, tickets, tenant], &socket)
}
