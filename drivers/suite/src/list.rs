//! The list of cases, once, for the library and for the tests that are made of it.

#[doc(hidden)]
#[macro_export]
macro_rules! __driver_cases {
    ($($callback:tt)+) => {
        $($callback)+! {
            plan {
                same_request_same_plan: "The same request gives the same plan, in two driver values and in two orders.",
                config_is_strict: "An unknown key of driver_config is an error that names the nearest one; a wrong type is an error; neither leaves anything.",
                every_field_has_a_rule: "Field rules name fields that are in the plan, and who the sandbox is stays sealed.",
                unoffered_points_are_refused: "A write at a point that is not advertised is refused by name and changes nothing.",
            }
            create {
                creates_without_starting: "A created sandbox is there and does not run.",
                repeats: "A create that is repeated succeeds and makes nothing.",
                ten_at_once_make_one: "Ten creates of one id at once make one object.",
                never_after_delete: "An id that was deleted is never created again, by this driver value or the next.",
                twenty_at_once: "Twenty sandboxes are created and started at once.",
            }
            start {
                runs: "A started sandbox runs, also when the start is repeated.",
                ten_at_once_run_once: "Ten starts at once run the main process once.",
                keeps_files: "A second start finds the files that the first one wrote.",
                of_nothing_is_refused: "A start of what was never made, or was deleted, runs nothing.",
            }
            exit {
                code_is_reported: "The main process's exit code is reported, 0 and another.",
                signal_is_reported: "A main process that a signal ended is reported as 128 and the signal.",
                is_not_missed: "What ended before anybody watched is told by get and by a watch's snapshot, also to the next driver value.",
                program_that_is_missing: "A program that does not exist fails the start or ends with 127, and never runs.",
            }
            stop {
                is_graceful: "A stop lets the main process end by itself, and is over when it has.",
                kills_after_grace: "A main process that ignores the signal is killed after its grace.",
                repeats: "A stop that is repeated, and one of what is not there, succeeds.",
            }
            delete {
                of_running: "The delete of a running sandbox leaves nothing.",
                of_stopped: "The delete of a stopped sandbox leaves nothing.",
                of_absent: "The delete of what is not there succeeds, twice.",
                during_create: "A delete that meets a create leaves nothing, whoever wins.",
                during_start: "A delete that meets a start leaves nothing, whoever wins.",
            }
            owner {
                sees_its_own_only: "Two gateways on one platform never see each other's sandboxes, though the names are the same.",
                deletes_its_own_only: "A gateway's delete of another gateway's sandbox succeeds and touches nothing.",
                leaves_foreign_objects: "An object without our labels is never listed, never deleted.",
                next_life_sees_all: "A second driver value on the same state sees everything, and can stop and delete it.",
                labels_win: "Managed labels are on the object, and neither a request nor an extension overrides them.",
            }
            watch {
                begins_with_a_snapshot: "A watch begins with everything that exists, then the mark, then changes.",
                tells_every_change: "Create, start, exit and delete arrive in order and in time.",
                has_many_watchers: "Several watchers of one driver value, and of the next on the same state, each get all of it.",
            }
        }
    };
}
