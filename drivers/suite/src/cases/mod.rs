//! The cases, by what they are about.

pub(crate) mod agent;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod exit;
pub(crate) mod image;
pub(crate) mod late;
pub(crate) mod limit;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod owner;
pub(crate) mod plan;
pub(crate) mod point;
pub(crate) mod secret;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod text;
pub(crate) mod volume;
pub(crate) mod watch;
