//! End-to-end tests: the real program, the real driver, real sandboxes.
//!
//! - `accidents`: what dies, hangs or is replaced below and above a sandbox
//! - `agentless`: sandboxes into which no agent is put
//! - `beyond`: extensions in processes of their own, which hang, lie, die and come back
//! - `chains`: who writes what, who is asked, and what a change of the config changes
//! - `clients`: the example of a program that uses sandboxes
//! - `damage`: full disks, damaged, copied and restored stores, missing descriptors
//! - `detection`: which driver runs when none is named
//! - `engines`: all of it on docker and podman
//! - `escape`: attacks from inside a sandbox, each tried for real
//! - `example_drivers`: gateways on the drivers of `examples/`
//! - `faults`: an extension that fails, hangs or panics
//! - `images`: from a name to a process, and what keeps and removes images
//! - `input`: bad input, and what is said about it
//! - `kills`: a gateway that dies in the midst of everything
//! - `life`: what a user does with a sandbox, from create to delete
//! - `network`: a leased address on a real bridge
//! - `obligations`: cleanups that are owed, and extensions and drivers that are gone
//! - `observe`: health, readiness, metrics
//! - `served`: drivers served to gateways of other processes
//! - `secrets`: where a secret is, and where it is not
//! - `streams`: files, logs and output, in bulk and with faults
//! - `terminals`: `exec -it` on a pseudo terminal
//! - `volumes`: named volumes over the lives of sandboxes, gateways and stores
//! - `without_root`: a gateway of an ordinary user
//! - `harness`: a gateway of a test's own, and the look at the machine afterwards
#![forbid(unsafe_code)]

mod accidents;
mod agentless;
mod beyond;
mod chains;
mod clients;
mod damage;
mod detection;
mod drivers;
mod engines;
mod escape;
mod example_drivers;
mod faults;
mod harness;
mod images;
#[expect(clippy::too_many_lines, reason = "tables of requests and answers, which are read top to bottom")]
mod input;
mod kills;
mod life;
mod network;
mod obligations;
mod observe;
mod points;
mod secrets;
mod served;
mod streams;
mod terminals;
mod volumes;
mod without_root;
