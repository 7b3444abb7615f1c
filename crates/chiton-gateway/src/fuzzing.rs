//! What the fuzz targets call of the gateway.

pub use crate::api::fuzzing::{check_exec, create_request, log_time, page, selector, workspace};
pub use crate::sessions::fuzzing::handshake;
