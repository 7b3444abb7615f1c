//! Attacks from inside a sandbox, each tried for real.
//!
//! Every test lets the program `chiton-attacker` try something in a sandbox and asserts that it was refused, and then looks
//! from outside whether the machine, a neighbour and the gateway are what they were: an error number inside says little
//! about what happened outside. Where it costs little the same program tries the same thing outside of any sandbox, where
//! it has to succeed: a test that cannot fail proves nothing.
//!
//! - [`Scene`]: a gateway with an attacked sandbox and a neighbour, and the look from outside
//! - `control`: the same attacks where nothing stops them
//! - `liar`: an agent that lies, in the place of the real one
//! - the other modules: attacks by what they aim at

/// Each attack against a gateway that root runs, and against one that an ordinary user runs.
macro_rules! by_both {
    ($($name:ident),* $(,)?) => {
        mod by_root {
            $(#[test]
            fn $name() {
                if crate::harness::root() {
                    super::$name(crate::harness::user::By::Root);
                }
            })*
        }

        mod by_user {
            $(#[test]
            fn $name() {
                // Only root can make the user.
                if crate::harness::root() {
                    super::$name(crate::harness::user::By::User);
                }
            })*
        }
    };
}

mod archives;
mod control;
mod copies;
mod host;
mod kernel;
mod liar;
mod lying;
mod namespaces;
mod processes;
mod resources;
mod scene;
mod terminals;

pub(crate) use scene::Scene;

/// Where the attacker is in a sandbox.
const PROGRAM: &str = "/workspace/attacker";
