//! What a failed build of the agent means and what cures it.

/// Whether the build failed only because it was told not to use the network.
pub(crate) fn needs_network(errors: &str) -> bool {
    errors.contains("--offline") || errors.contains("in offline mode")
}

/// The message for a failed build.
pub(crate) fn failure(triple: &str, errors: &str) -> String {
    // The words of GNU ld, gold and lld for a library that is only there as a shared one.
    let library = ["-lc", "-lm", "-lpthread", "-lutil", "-lrt", "-ldl"];
    let missing = |words: &str| library.iter().any(|name| errors.contains(&format!("{words} {name}")));
    if missing("cannot find") || missing("unable to find library") || errors.contains("cannot find crt") {
        return format!(
            "the agent could not be linked: this machine has no static C library for {triple}. \
             Install it (Debian, Ubuntu: libc6-dev; Fedora, RHEL: glibc-static; Alpine: musl-dev) and build again.\n{errors}"
        );
    }
    if errors.contains("can't find crate for `std`") {
        return format!("the agent could not be built: run `rustup target add {triple}` and build again.\n{errors}");
    }
    format!("the agent could not be built for {triple}:\n{errors}")
}
