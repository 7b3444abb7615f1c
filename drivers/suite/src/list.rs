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
            agent {
                comes_without_a_network: "The agent of a sandbox without a network comes to its gateway's door with its token and attempt.",
                is_new_at_each_start: "Each start's agent carries that start's token and attempt.",
                comes_back_to_the_next_gateway: "The agent comes to the next gateway by itself.",
            }
            point {
                env_is_seen: "A written variable is seen by the process.",
                label_and_annotation_are_on_the_object: "A written label and annotation are on the object.",
                text_arrives_as_it_is: "Labels of any text, 4 KiB long too, are on the object as they were written, or refused by name.",
                mount_is_shown: "A written mount shows the host's folder, read-only where it says so, and never hides the kernel's.",
                missing_source_is_refused: "A mount of a host path that is not there is refused and makes none.",
                device_is_shown: "A written device is there, and without the write it is not.",
                resource_is_applied: "A written limit bites; what is no quantity is refused and changes nothing.",
                network_address_is_checked: "What is no address is refused.",
            }
            limit {
                memory_bites: "More memory than the limit ends the process, and the end says that this was why.",
                pids_bite: "More processes than the limit are refused.",
                cpu_bites: "A loop gets the share of a processor that the limit allows.",
                disk_bites: "More bytes than the limit are refused, and what is deleted can be written again.",
                inodes_bite: "More files than the limit are refused.",
                open_files_bite: "The limit of open files is set and cannot be raised.",
                absurd_ones_are_refused: "A limit that nothing can live in is refused, not taken for none.",
                undeclared_ones_are_refused: "A limit that the driver does not declare is refused, never ignored.",
            }
            network {
                none_is_none: "A sandbox without a network has no interface, no route and none of the host's sockets.",
                host_is_the_hosts: "A sandbox on the host's network has the host's sockets.",
                bridge_is_its_own: "A sandbox on a bridge has an interface and a route, and none of the host's sockets.",
                named_is_joined: "A sandbox joins the network that it names; one that is not there is refused.",
            }
            secret {
                token_is_nowhere: "The agent's token is in no process's environment, no log, nothing that the platform shows, and no file.",
                reaches_the_process_only: "A secret reaches the process byte for byte, and nothing that anybody can look at.",
            }
            text {
                env_arrives_as_it_is: "Variables of any text arrive byte for byte, or are refused.",
                arguments_arrive_as_they_are: "Arguments of any text arrive byte for byte, or are refused.",
                nul_is_refused: "What the kernel cannot pass is refused by the plan.",
                long_ones_arrive_whole: "100 KiB of a variable and 1 MiB of arguments arrive whole; more is refused, never cut.",
            }
            log {
                streams_are_told_apart: "Standard output and standard error are told apart.",
                tail_and_since_choose: "The last lines and the lines since a time are chosen, by any driver value, again and again.",
                follow_ends_with_the_process: "A follower gets every line as it is written and ends with the process.",
                bytes_are_as_they_were: "Any bytes and long lines are as the process wrote them.",
                large_output_is_bounded: "Of 64 MiB of output less is kept, its end among it, and the process is not held up.",
                of_nothing_are_an_error: "The log of what is not there is an error; that of what was not started is empty.",
            }
            volume {
                outlives_sandboxes: "A volume is made by its first sandbox, outlives it and the gateway, and is gone with its delete.",
                in_use_is_not_deleted: "A volume that a sandbox has is not deleted, and the sandbox is named.",
                is_made_once: "A volume is made once and deleted once; the second time says so.",
                read_only_is_honoured: "A volume that is shown read-only cannot be written.",
                size_is_kept_or_refused: "A volume's size is kept, or refused where it cannot be.",
                is_its_gateways: "Gateways have volumes of the same name without meeting.",
            }
            image {
                unknown_is_refused_by_the_plan: "An image that is not there is refused before anything is made, by its name and with a cure.",
                name_is_pinned_by_the_plan: "What a name meant when the plan was made is what runs.",
            }
            late {
                create_whose_answer_is_lost: "A create whose answer is lost is Unknown, found by its id, and repeated without a second object.",
                create_that_never_arrived: "A create whose connection broke is Unknown, and can be repeated.",
                create_that_lands_after_its_deadline: "A create that lands after its deadline is told by the watch, listed, and deleted.",
                create_that_lands_after_its_delete: "A create that lands after its delete is listed until a repeated delete removes it.",
                start_whose_answer_is_lost: "A start whose answer is lost is Unknown or found; repeated, the main process runs once.",
                stop_whose_answer_is_lost: "A stop whose answer is lost is Unknown or found; repeated, it succeeds.",
                delete_that_fails_once: "A delete that the engine refuses is an error in the engine's words; repeated, it removes.",
                delete_whose_answer_is_lost: "A delete whose answer is lost is Unknown or found; repeated, it succeeds.",
                events_that_break_off: "When the events break off, what happened meanwhile is told all the same.",
                engine_that_was_away: "What happened while the engine could not be reached is told when it is back.",
                looks_that_fail_for_a_while: "An engine that fails for a while to look at a sandbox ends no watch, and the exit is told.",
                engine_that_is_away: "Without the engine every call ends by its deadline as an error with the socket and a cure, never as absence.",
                engine_that_hangs: "When the engine hangs every call ends by its deadline as an error, never as absence.",
                error_is_told_in_the_engines_words: "A create that the engine refuses is an error in the engine's words, and can be repeated.",
            }
        }
    };
}
