use chiton_confine::{Held, Landlock, enforceable};
use chiton_driver::ComputeDriver;
use serde_json::json;

use super::common::{World, exit, output, root, sandbox_id};
use super::{DONE, EPERM, calls, probe, run_with, started_with, word};

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_or_family_is_refused_and_the_rest_still_works() {
    if !root("a_denied_call_or_family_is_refused_and_the_rest_still_works") {
        return;
    }
    let world = World::new();
    let folder = probe(&world);
    let driver = world.driver();
    let words: Vec<String> =
        ["inotify_init1:0", "socket#inet:2:1:0", "socket#inet6:10:1:0", "socket#unix:1:1:0", "memfd_create:@:0"]
            .iter()
            .map(|call| word(call))
            .collect();
    let free = calls(&driver, &folder, &json!({}), &words).await;
    assert!(free.values().all(|came| *came == DONE), "{free:?}");
    let config = json!({ "security": { "deny_syscalls": ["inotify_init1"], "deny_sockets": ["inet"] } });
    let tight = calls(&driver, &folder, &config, &words).await;
    for (label, came) in tight {
        let denied = ["inotify_init1", "socket#inet"].contains(&label.as_str());
        assert_eq!(came, if denied { EPERM } else { DONE }, "{label}");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_can_be_denied_can_be_denied_at_once_and_a_shell_still_starts() {
    if !root("every_call_that_can_be_denied_can_be_denied_at_once_and_a_shell_still_starts") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let standard = chiton_confine::Seccomp::standard();
    let mut names: Vec<&String> = standard.allow.iter().chain(standard.limited.keys()).collect();
    names.retain(|name| standard.clone().deny(&[(*name).clone()]).is_ok());
    assert!(names.len() > 150, "{}", names.len());
    let config = json!({ "security": { "deny_syscalls": names } });
    let script = "echo alone; (echo child); ls / | grep -c usr; exit 3";
    let (status, text) = run_with(&driver, None, &config, &["bash", "-c", script]).await;
    assert_eq!((status.code, text.as_str()), (Some(3), "alone\nchild\n1\n"));
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_named_paths_are_writable_and_devices_still_work() {
    if !root("only_named_paths_are_writable_and_devices_still_work") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let config = json!({ "security": { "writable_paths": ["/workspace"] } });
    if !enforceable(&Landlock::standard()) {
        // Asked for and not to be had: refused, not run without.
        let mut request = super::common::request("host", &["true"]);
        request.driver_config = config;
        let id = sandbox_id();
        let call = super::common::call(&driver, &request, &id).await;
        assert!(driver.create(&call).await.is_err());
        return;
    }
    let script = "for file in /workspace/a /workspace/d/../b /tmp/x /root/x /etc/x /dev/shm/x /home/x /etc/passwd; do \
                    mkdir -p /workspace/d; if (echo x > $file) 2>/dev/null; then echo \"wrote $file\"; fi; done; \
                  mv /workspace/a /workspace/d/ && ln /workspace/b /workspace/c && rm -r /workspace/d; \
                  rm /etc/hostname 2>/dev/null || echo kept; mkdir /tmp/d 2>/dev/null || echo none; \
                  ln -s /etc /workspace/etc; (echo x > /workspace/etc/y) 2>/dev/null || echo link; \
                  echo x > /dev/null && echo device; script -qc 'stty size; echo terminal' /dev/null";
    let (status, text) = run_with(&driver, None, &config, &["bash", "-c", script]).await;
    let text = text.replace('\r', "");
    let expected = "wrote /workspace/a\nwrote /workspace/d/../b\nkept\nnone\nlink\ndevice\n0 0\nterminal\n";
    assert_eq!((status.code, text.as_str()), (Some(0), expected));
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_path_that_is_not_there_refuses_the_create_and_is_named() {
    if !root("a_writable_path_that_is_not_there_refuses_the_create_and_is_named") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut request = super::common::request("host", &["true"]);
    request.driver_config = json!({ "security": { "writable_paths": ["/nowhere"] } });
    let id = sandbox_id();
    let call = super::common::call(&driver, &request, &id).await;
    let error = driver.create(&call).await.unwrap_err().into_error();
    if enforceable(&Landlock::standard()) {
        assert!(error.message.contains("\"/nowhere\""), "{error}");
    }
    assert!(error.message.contains("confine the container's init"), "{error}");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_a_former_run_left_does_not_move_the_rights_to_where_it_points() {
    let name = "a_link_that_a_former_run_left_does_not_move_the_rights_to_where_it_points";
    if !root(name) {
        return;
    }
    if !enforceable(&Landlock::standard()) {
        eprintln!("SKIPPED {name}: this kernel has no Landlock of 6.12");
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let script = "mkdir -p /workspace/out && ln -s / /workspace/out/link";
    started_with(&driver, None, &json!({}), &["bash", "-c", script], &id).await;
    assert_eq!(exit(&driver, &id).await.code, Some(0));
    let mut request = super::common::request("host", &["true"]);
    request.driver_config = json!({ "security": { "writable_paths": ["/workspace/out/link"] } });
    let call = super::common::call(&driver, &request, &id).await;
    let error = driver.start(&call).await.unwrap_err().into_error();
    assert!(error.message.contains("a link stands in it"), "{error}");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tcp_not_even_the_loopback_interface_can_be_used() {
    if !root("without_tcp_not_even_the_loopback_interface_can_be_used") {
        return;
    }
    if !enforceable(&Landlock::standard()) {
        eprintln!(
            "SKIPPED without_tcp_not_even_the_loopback_interface_can_be_used: this kernel has no Landlock of 6.12"
        );
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "import socket\n\
                  for act in (lambda s: s.bind(('127.0.0.1', 8080)), lambda s: s.connect(('127.0.0.1', 8080))):\n\
                  \x20 try:\n\x20   act(socket.socket()); print('done')\n\
                  \x20 except OSError as error:\n\x20   print(type(error).__name__)\n";
    let run = async |config| run_with(&driver, None, &config, &["python3", "-c", script]).await.1;
    assert_eq!(run(json!({})).await, "done\nConnectionRefusedError\n");
    assert_eq!(run(json!({ "security": { "deny_tcp": true } })).await, "PermissionError\nPermissionError\n");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_and_read_only_paths_of_a_request_are_added_to_the_drivers_own() {
    if !root("hidden_and_read_only_paths_of_a_request_are_added_to_the_drivers_own") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let config = json!({ "security": { "masked_paths": ["/usr/share"], "readonly_paths": ["/workspace"] } });
    let script =
        "ls -A /usr/share | wc -l; (echo x > /workspace/x) 2>/dev/null || echo read-only; head -c 1 /proc/keys | wc -c";
    let id = sandbox_id();
    started_with(&driver, None, &config, &["bash", "-c", script], &id).await;
    assert_eq!(output(&driver, &id).await, "0\nread-only\n0\n");
    assert_eq!(exit(&driver, &id).await.code, Some(0));
    let enforced = driver.enforced(&id).await.unwrap().unwrap();
    assert!(enforced.landlock == Held::Fully || enforced.landlock_abi < 6, "{enforced:?}");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}
