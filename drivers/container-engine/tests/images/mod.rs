//! Images on real engines: the same cases for every engine, run from the driver's own tests.
//!
//! Whoever includes this has the modules `build` and `served` of the image crate's tests beside it.

pub(crate) mod bench;
pub(crate) mod files;
pub(crate) mod kept;
pub(crate) mod registries;

/// One test of each case, for one engine.
macro_rules! image_cases {
    ($target:expr, $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(engine) = images::bench::Target::present(&$target, stringify!($case)) {
                    images::$module::$case(engine).await;
                }
            }
        )+)+
    };
    ($target:expr) => {
        image_cases! { $target,
            files: files_are_loaded_and_run, loading_moves_nobodys_tag, many_who_want_one_file_load_it_once,
                a_file_that_was_changed_since_the_plan_leaves_nothing;
            registries: a_tag_that_moves_between_plan_and_create_does_not_matter, a_slow_pull_tells_of_itself,
                many_who_want_one_image_pull_it_once, a_pull_that_nobody_waits_for_is_given_up,
                a_login_is_used_and_told_to_nobody, what_is_not_there_is_said_so, a_pull_that_breaks_off_is_begun_anew,
                an_index_gives_the_image_for_this_machine, policies_say_when_a_registry_is_asked;
            kept: images_are_listed_pulled_and_removed, an_image_in_use_stays_whoever_uses_it,
                a_prune_removes_only_what_the_driver_brought, names_that_no_engine_should_see_are_refused;
        }
    };
}
