//! The cases, by what they are about.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod exit;
pub(crate) mod owner;
pub(crate) mod plan;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod watch;
