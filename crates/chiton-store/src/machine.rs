//! Facts about the machine that tell one life of a store from another.

use std::fs;

/// What the store needs to know of the machine. Tests make their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The kernel's boot id: marks are trusted only within one boot.
    pub boot: String,
    /// The machine's id: a copied data folder on another machine is another life of the store.
    pub machine: String,
}

impl MachineFacts {
    /// Reads them. A machine without an id is known by its host name.
    ///
    /// # Errors
    /// When the kernel's boot id cannot be read: then no mark could ever be trusted.
    pub fn read() -> std::io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let machine = fs::read_to_string("/etc/machine-id").map(|text| text.trim().to_owned()).unwrap_or_default();
        let machine = if machine.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            machine
        };
        Ok(Self { boot, machine })
    }
}
