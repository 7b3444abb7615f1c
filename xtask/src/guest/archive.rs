//! The archive that a kernel unpacks as its first root: cpio in its "newc" form, as the kernel's
//! `driver-api/early-userspace/buffer-format` has it.

/// An archive that grows.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8], program: bool) {
        self.entry(name, if program { 0o100_755 } else { 0o100_644 }, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let fields = [self.entries as usize, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
