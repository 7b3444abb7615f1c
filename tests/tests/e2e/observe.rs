//! What a supervisor and a scraper ask: health, readiness, metrics.

use crate::harness::{Gateway, root};

const API: &str = "data/gateway.sock";

/// A metric's value, by its name with labels.
#[track_caller]
pub(crate) fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().expect("a number")
}

#[test]
fn health_readiness_and_metrics_are_served_beside_the_api() {
    if !root() {
        return;
    }
    let gateway =
        Gateway::start("[compute]\nextensions = [\"noop\"]\n[metrics]\nlisten = \"unix:{folder}/metrics.sock\"\n");
    for (path, wanted) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let (head, body) = gateway.http(API, path);
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert_eq!(body, wanted, "{path}");
    }
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    let before = gateway.http(API, "/metrics").1;
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    // The listener of its own serves the same, and nothing else.
    let (head, after) = gateway.http("metrics.sock", "/metrics");
    assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(after.ends_with("# EOF\n"), "{after}");
    for path in ["/readyz", "/healthz", "/"] {
        assert!(gateway.http("metrics.sock", path).0.starts_with("http/1.1 404 "), "{path}");
    }
    let created = "chiton_step_seconds_count{phase=\"driver_create\",extension=\"\"}";
    let stopped = "chiton_step_seconds_count{phase=\"driver_stop\",extension=\"\"}";
    let hook = "chiton_step_seconds_count{phase=\"before_create\",extension=\"noop\"}";
    assert_eq!((metric(&before, created), metric(&before, hook)), (1.0, 1.0));
    assert!(!before.contains(stopped), "nothing was stopped yet");
    assert_eq!((metric(&after, created), metric(&after, stopped)), (1.0, 1.0));
    assert!(metric(&after, "chiton_requests_total") > metric(&before, "chiton_requests_total"));
    for (name, value) in [
        ("chiton_obligations{status=\"open\"}", 0.0),
        ("chiton_obligations{status=\"abandoned\"}", 0.0),
        ("chiton_obligations_oldest_seconds", 0.0),
        ("chiton_held_sandboxes", 0.0),
    ] {
        assert_eq!(metric(&after, name).to_bits(), f64::to_bits(value), "{name}");
    }
}

#[test]
fn a_gateway_that_drains_is_alive_and_not_ready() {
    if !root() {
        return;
    }
    let config = r#"
[compute]
extensions = ["fault"]
drain = "1m"
[compute.extension."fault"]
folder = "{folder}"
faults = { before_create = "hold" }
[compute.policy."fault"]
deadline = "1m"
"#;
    let mut gateway = Gateway::start(config);
    gateway.chiton(&["sandbox", "create", "box", "--no-wait"]).ok();
    gateway.ask_to_end();
    // The signal is on its way; once it is there the answer is another.
    while gateway.http(API, "/readyz").0.starts_with("http/1.1 200 ") {}
    let (head, body) = gateway.http(API, "/readyz");
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert_eq!(body, "not ready\n");
    assert_eq!(gateway.http(API, "/healthz").1, "ok\n");
    let refused = gateway.chiton(&["sandbox", "create", "other"]).refused();
    assert!(refused.contains("the gateway is shutting down"), "{refused}");
    std::fs::write(gateway.path("cured"), "").expect("a file");
    gateway.terminate();
}
