//! The cases, by what they are about.

pub(crate) mod capabilities;
pub(crate) mod config;
pub(crate) mod contract;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod leak;
pub(crate) mod list;
pub(crate) mod listener;
pub(crate) mod malformed;
pub(crate) mod process;
pub(crate) mod quantity;
pub(crate) mod race;
pub(crate) mod ready;
pub(crate) mod restart;
pub(crate) mod secret;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod text;
pub(crate) mod validate;
pub(crate) mod watch;
pub(crate) mod wire;
pub(crate) mod workspace;
