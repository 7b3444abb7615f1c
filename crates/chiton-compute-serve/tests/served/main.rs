//! A driver that is served in this process, around a base driver behind a socket whose sandboxes are plain processes and
//! whose calls fail when they are told to. The real program with real sandboxes is tested end to end elsewhere.
#![forbid(unsafe_code)]

mod capabilities;
mod creates;
mod deletes;
mod harness;
mod stops;
