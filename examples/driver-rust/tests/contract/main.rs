//! Both example drivers, each as a real process, driven over its socket through the whole contract.
#![forbid(unsafe_code)]

mod activation;
mod checks;
mod conform;
mod ends;
mod life;
mod restart;
mod subject;
#[path = "../../../driver-python/tests/venv.rs"]
mod venv;
mod watch;

/// Each scenario, once for each driver.
macro_rules! scenarios {
    ($($module:ident :: $scenario:ident),* $(,)?) => {
        mod rust {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                crate::$module::$scenario(crate::subject::Subject::rust()).await;
            })*
        }

        mod python {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                if let Some(subject) = crate::subject::Subject::python() {
                    crate::$module::$scenario(subject).await;
                }
            })*
        }
    };
}

scenarios! {
    checks::it_says_what_it_is,
    checks::malformed_requests_are_refused_and_leave_nothing,
    checks::what_cannot_be_held_to_is_refused,
    checks::unicode_arrives_as_it_is,
    checks::the_token_is_in_one_private_file,
    checks::its_folder_and_socket_are_private,
    conform::the_kit_finds_nothing,
    ends::exit_codes_are_told,
    ends::a_stop_lets_it_end_by_itself_and_kills_the_deaf,
    ends::what_a_main_process_leaves_ends_with_it,
    ends::memory_and_niceness_are_held_to,
    life::creates_starts_stops_and_deletes_may_be_repeated,
    life::ten_creates_at_once_make_one,
    life::creates_and_deletes_of_one_id_leave_nothing,
    life::a_start_finds_the_files_and_runs_what_it_carries,
    life::a_caller_who_goes_away_changes_nothing,
    watch::a_watch_is_a_snapshot_and_then_changes,
    watch::who_does_not_read_holds_up_nobody,
    restart::killed_it_finds_its_sandboxes_again,
    restart::killed_it_still_knows_how_they_ended,
    restart::killed_amid_creates_it_leaves_nothing,
    restart::what_a_crash_left_half_done_is_removed,
    restart::terminated_it_ends_its_watches_and_keeps_its_sandboxes,
    restart::two_on_one_state_are_refused,
}
