//! What a request and a hand-made plan may say of confinement.

use chiton_driver::{CallError, ComputeDriver};
use chiton_driver_oci::{OciDriver, SecurityPlan};
use serde_json::{Value, json};

use super::common::{World, fill, request, sandbox_id};

async fn refusal(driver: &OciDriver, security: Value) -> (String, String, String) {
    let mut request = request("host", &["true"]);
    request.driver_config = json!({ "security": security });
    let error = driver.default_plan(&request).await.unwrap_err();
    let field = format!("{:?}", error.kind);
    (error.message, error.cure.expect("every refusal has a cure"), field)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_tightens_strictly_and_each_refusal_says_what_is_known() {
    let world = World::new();
    let driver = world.driver();
    let said = |(message, cure, _): (String, String, String)| (message, cure);
    let expect = |message: &str, cure: &str| (message.to_owned(), cure.to_owned());
    assert_eq!(
        said(refusal(&driver, json!({ "deny_syscall": [] })).await),
        expect("security has no option \"deny_syscall\"", "did you mean \"deny_syscalls\"?")
    );
    assert_eq!(
        said(refusal(&driver, json!({ "deny_syscalls": ["ptrce"] })).await),
        expect("\"ptrce\" is not a system call that this version knows", "did you mean \"ptrace\"?")
    );
    assert_eq!(
        said(refusal(&driver, json!({ "deny_sockets": ["inet4"] })).await),
        expect("\"inet4\" is not a family of sockets that can be denied", "did you mean \"inet\"?")
    );
    let (message, _, _) = refusal(&driver, json!({ "deny_syscalls": ["execve"] })).await;
    assert!(message.contains("a sandbox cannot be started or reached without it"), "{message}");
    for security in [
        json!([]),
        json!({ "deny_syscalls": "splice" }),
        json!({ "deny_syscalls": [1] }),
        json!({ "deny_tcp": 1 }),
        json!({ "writable_paths": ["tmp"] }),
        json!({ "writable_paths": ["/a/../b"] }),
        json!({ "masked_paths": ["/"] }),
        json!({ "masked_paths": ["/run"] }),
        json!({ "masked_paths": ["/run/chiton/agent.sock"] }),
        json!({ "readonly_paths": ["/x/../../y"] }),
    ] {
        let (message, _, kind) = refusal(&driver, security.clone()).await;
        assert!(kind.contains("driver_config.security"), "{security}: {message}: {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_says_what_a_request_tightened_and_is_accepted_by_the_driver() {
    let world = World::new();
    let driver = world.driver();
    let mut request = request("host", &["true"]);
    request.driver_config = json!({ "security": {
        "deny_syscalls": ["splice", "tee"], "deny_sockets": ["inet6"], "deny_tcp": true,
        "writable_paths": ["/workspace"], "masked_paths": ["/proc/version"], "readonly_paths": ["/opt"],
    } });
    let default = driver.default_plan(&request).await.unwrap();
    let security: SecurityPlan = serde_json::from_value(default.plan["security"].clone()).unwrap();
    assert!(!security.seccomp.allows("splice", &[0; 6]) && !security.seccomp.allows("tee", &[0; 6]));
    assert!(security.landlock.required, "what a request asks for must hold");
    assert_eq!(security.looser_than_default(), None);
    for pointer in [
        "/security/seccomp",
        "/security/landlock/rules",
        "/security/landlock/tcp",
        "/security/landlock/required",
        "/security/masked_paths",
        "/security/readonly_paths",
    ] {
        assert!(default.from_request.iter().any(|said| said == pointer), "{pointer}");
        assert!(default.plan.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_made_plan_with_looser_confinement_is_refused_at_every_call() {
    let world = World::new();
    let driver = world.driver();
    let plan = driver.default_plan(&request("host", &["true"])).await.unwrap().plan;
    let changes: [(&str, Value, &str); 12] = [
        ("/no_new_privileges", json!(false), "gain privileges"),
        ("/capabilities", json!(["CAP_SYS_PTRACE"]), "CAP_SYS_PTRACE"),
        ("/namespaces", json!(["user"]), "namespace"),
        ("/mapped_ids", json!(1_000_000), "mapped"),
        ("/seccomp/allow", json!(["ptrace"]), "\"ptrace\""),
        ("/seccomp/limited/clone", json!(["arg0 != 0x1"]), "\"clone\""),
        ("/seccomp/limited/clone", json!([]), "limited to nothing"),
        ("/seccomp/allow", json!(["nonsense"]), "nonsense"),
        ("/landlock/scopes", json!([]), "path rules"),
        ("/landlock/rules/1/path", json!("/"), "path rules"),
        ("/masked_paths", json!([]), "/proc/acpi could be seen"),
        ("/readonly_paths", json!(["/proc/sys"]), "could be written"),
    ];
    for (pointer, value, why) in changes {
        let mut loose = plan.clone();
        *loose["security"].pointer_mut(pointer).unwrap() = value;
        let call = fill(loose, &sandbox_id());
        let Err(CallError::NotRun(error)) = driver.create(&call).await else { panic!("{pointer} was accepted") };
        assert!(error.message.contains("looser than the driver's own") && error.message.contains(why), "{error}");
    }
}
