//! The macro: one test for every check.

/// Makes a module of tests that prove an extension against the rules of `docs/extensions.md`.
///
/// The first argument is what the crate gives to a distribution, `Result<ExtensionKind, Error>`; the second a closure that
/// makes a [`Bench`](crate::conformance::Bench), or only a config (`serde_json::Value`), anew for every run. A module of
/// another name than `conformance`, for a second config: `conformance!(mod small, …, …)`.
#[macro_export]
macro_rules! conformance {
    (mod $name:ident, $extension:expr, $bench:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn assert(family: $crate::conformance::Family, phase: Option<$crate::conformance::Phase>) {
                $crate::conformance::Kit::new($extension, $bench)
                    .assert($crate::conformance::Check { family, phase });
            }

            $crate::__conformance_families! {
                FailEach fail_each [ValidateRequest validate_request, PreparePlan prepare_plan, ValidatePlan validate_plan,
                    BeforeCreate before_create, AfterCreate after_create, BeforeStart before_start, AfterReady after_ready,
                    ApproveStop approve_stop, BeforeStop before_stop, AfterStop after_stop,
                    OnCreateFailed on_create_failed, BeforeDelete before_delete, AfterDelete after_delete,
                    Reconcile reconcile, Sweep sweep, EnsureWorkspace ensure_workspace,
                    ReleaseWorkspace release_workspace]
                RepeatEach repeat_each [BeforeCreate before_create, AfterCreate after_create, BeforeStart before_start,
                    AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop, AfterStop after_stop,
                    OnCreateFailed on_create_failed, BeforeDelete before_delete, AfterDelete after_delete,
                    Reconcile reconcile, EnsureWorkspace ensure_workspace, ReleaseWorkspace release_workspace]
                RepeatEachCleanup repeat_each_cleanup [AfterStop after_stop, OnCreateFailed on_create_failed,
                    AfterDelete after_delete, ReleaseWorkspace release_workspace]
                CancelEach cancel_each [BeforeCreate before_create, AfterCreate after_create, BeforeStart before_start,
                    AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop, AfterStop after_stop,
                    OnCreateFailed on_create_failed, BeforeDelete before_delete, AfterDelete after_delete,
                    Reconcile reconcile, EnsureWorkspace ensure_workspace, ReleaseWorkspace release_workspace]
                TimeOutEach time_out_each [ValidateRequest validate_request, PreparePlan prepare_plan,
                    ValidatePlan validate_plan, BeforeCreate before_create, AfterCreate after_create,
                    BeforeStart before_start, AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop,
                    AfterStop after_stop, OnCreateFailed on_create_failed, BeforeDelete before_delete,
                    AfterDelete after_delete, Reconcile reconcile, Sweep sweep, EnsureWorkspace ensure_workspace,
                    ReleaseWorkspace release_workspace]
                PanicEach panic_each [ValidateRequest validate_request, PreparePlan prepare_plan,
                    ValidatePlan validate_plan, BeforeCreate before_create, AfterCreate after_create,
                    BeforeStart before_start, AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop,
                    AfterStop after_stop, OnCreateFailed on_create_failed, BeforeDelete before_delete,
                    AfterDelete after_delete, Reconcile reconcile, Sweep sweep, EnsureWorkspace ensure_workspace,
                    ReleaseWorkspace release_workspace]
                CrashEach crash_each [ValidateRequest validate_request, PreparePlan prepare_plan,
                    ValidatePlan validate_plan, BeforeCreate before_create, AfterCreate after_create,
                    BeforeStart before_start, AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop,
                    AfterStop after_stop, OnCreateFailed on_create_failed, BeforeDelete before_delete,
                    AfterDelete after_delete, Reconcile reconcile, Sweep sweep, EnsureWorkspace ensure_workspace,
                    ReleaseWorkspace release_workspace]
                Purity purity [ValidateRequest validate_request, PreparePlan prepare_plan, ValidatePlan validate_plan,
                    ApproveStop approve_stop]
                CleanupWithoutState cleanup_without_state [AfterStop after_stop, OnCreateFailed on_create_failed,
                    AfterDelete after_delete, ReleaseWorkspace release_workspace]
                CleanupOfNothing cleanup_of_nothing [AfterStop after_stop, OnCreateFailed on_create_failed,
                    AfterDelete after_delete, ReleaseWorkspace release_workspace]
                NoDetachedWork no_detached_work [ValidateRequest validate_request, PreparePlan prepare_plan,
                    ValidatePlan validate_plan, BeforeCreate before_create, AfterCreate after_create,
                    BeforeStart before_start, AfterReady after_ready, ApproveStop approve_stop, BeforeStop before_stop,
                    AfterStop after_stop, OnCreateFailed on_create_failed, BeforeDelete before_delete,
                    AfterDelete after_delete, Reconcile reconcile, Sweep sweep, EnsureWorkspace ensure_workspace,
                    ReleaseWorkspace release_workspace]
                Calm calm []
                Slots slots []
                StateRoundTrip state_round_trip []
                UnknownState unknown_state []
                KeyedById keyed_by_id []
                Leaks leaks []
                Sweep sweep []
                Reconcile reconcile []
                Config config []
            }
        }
    };
    ($extension:expr, $bench:expr $(,)?) => {
        $crate::conformance!(mod conformance, $extension, $bench);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_families {
    () => {};
    ($family:ident $name:ident [] $($rest:tt)*) => {
        #[test]
        fn $name() {
            assert($crate::conformance::Family::$family, None);
        }
        $crate::__conformance_families! { $($rest)* }
    };
    ($family:ident $name:ident [$($phase:ident $test:ident),+] $($rest:tt)*) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    super::assert(
                        $crate::conformance::Family::$family,
                        Some($crate::conformance::Phase::$phase),
                    );
                }
            )+
        }
        $crate::__conformance_families! { $($rest)* }
    };
}
