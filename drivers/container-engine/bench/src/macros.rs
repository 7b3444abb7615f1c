//! Tests that are the same for every engine.

use chiton_driver_suite::{Stop, Verdict};

/// Makes a module of tests that try what is about engines alone. The argument is a [`crate::Target`].
#[macro_export]
macro_rules! engine_trials {
    ($target:expr $(,)?) => {
        $crate::engine_trials! { $target;
            volumes_of_an_image_go_with_the_sandbox
            file_systems_in_memory_are_as_they_were_asked_for
            lists_survive_passing_states
            networks_are_removed_and_swept
        }
    };
    ($target:expr; $($name:ident)+) => {
        mod engine_trials {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    let tried = async { $crate::trials::$name($crate::EngineBench::new($target)?).await };
                    $crate::judged(stringify!($name), tried.await);
                }
            )+
        }
    };
}

/// Makes a module of tests about what is put into sandboxes, or is not. The argument is a [`crate::Target`].
#[macro_export]
macro_rules! injection_trials {
    ($target:expr $(,)?) => {
        $crate::injection_trials! { $target;
            a_supervisor_gets_what_its_own_drivers_give_it
            a_supervisor_reaches_where_its_gateway_was_told_to_listen
            a_supervisor_is_started_again_after_a_reboot
            a_supervisor_is_taken_out_of_its_image_once
            what_a_crash_leaves_of_a_supervisor_is_swept
            nothing_is_put_in_without_an_agent
        }
    };
    ($target:expr; $($name:ident)+) => {
        mod injection_trials {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    $crate::judged(stringify!($name), $crate::supervisor::$name($target).await);
                }
            )+
        }
    };
}

/// A verdict as a test: fails where it failed, and says by name what was skipped.
///
/// # Panics
/// When the verdict is a failure.
pub fn judged(name: &str, verdict: Verdict) {
    match verdict {
        Ok(()) => {}
        Err(Stop::Skipped(why)) => eprintln!("SKIPPED {name}: {why}"),
        Err(Stop::Failed(failure)) => panic!("{name}: {failure}"),
    }
}
