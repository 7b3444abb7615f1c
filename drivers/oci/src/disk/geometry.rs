//! How large an image must be so that a sandbox can keep in it what its limit says, and not more.

use chiton_model::{Error, ErrorKind};

use crate::plan::ResourcesPlan;

/// The smallest limit: below it a file system's own needs are larger than what is kept in it.
const LEAST: u64 = 8 << 20;
/// The largest: the host's file system must be able to hold the image as one file (16 TiB on ext4), and the file
/// system in it has 32-bit block numbers.
const MOST: u64 = 8 << 40;
/// The most files. Their inodes take 256 bytes each.
const MOST_INODES: u64 = 1 << 28;
/// Bytes for each file where only bytes are limited: what mkfs.ext4 takes by default.
const BYTES_PER_INODE: u64 = 16 << 10;
const LEAST_INODES: u64 = 1024;
/// Block size; the largest that every machine can mount.
pub(super) const BLOCK: u64 = 4096;
/// Size of an inode.
pub(super) const INODE: u64 = 256;
/// The journal in MiB: the smallest with this block size. What a sandbox does to its files hardly needs more, and it
/// is written on first use.
pub(super) const JOURNAL_MIB: u64 = 4;
/// Blocks that one block of bitmap describes.
const GROUP_BLOCKS: u64 = 8 * BLOCK;
/// Inodes are made in whole blocks for each group.
const INODES_PER_BLOCK: u64 = BLOCK / INODE;
/// What a new file system has of its own: ten inodes that are reserved, `lost+found`, and the two layer folders.
const OWN_INODES: u64 = 13;

/// An image's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of the image.
    pub(crate) bytes: u64,
    /// Inodes in it.
    pub(crate) inodes: u64,
}

impl Geometry {
    /// The image for a plan's limits.
    pub(crate) fn of(limits: &ResourcesPlan) -> Result<Self, Error> {
        let Some(disk) = &limits.disk else {
            return Err(Error::new(
                ErrorKind::Refused { by: "driver".to_owned() },
                "on this machine the number of files is limited by a file system of the sandbox's own, which needs a \
                 size",
            )
            .cure("give a disk limit too, for example --disk 1Gi"));
        };
        Self::for_limits("resources", disk.bytes(), limits.inodes)
    }

    /// The image for so many bytes and files; `field` is what a refusal names.
    pub(crate) fn for_limits(field: &str, disk: u64, inodes: Option<u64>) -> Result<Self, Error> {
        let refuse =
            |part: &str, text: String, cure: String| Error::invalid(format!("{field}.{part}"), text).cure(cure);
        if disk < LEAST {
            let text = format!("a disk limit of {disk} bytes is too small for a file system");
            return Err(refuse("disk", text, format!("allow at least {LEAST} bytes (8Mi)")));
        }
        if disk > MOST {
            let text = format!("a disk limit of {disk} bytes is more than one image can hold");
            return Err(refuse("disk", text, format!("allow at most {MOST} bytes (8Ti)")));
        }
        if let Some(asked) = inodes.filter(|inodes| *inodes > MOST_INODES) {
            let text = format!("a limit of {asked} files is more than an image is made for");
            return Err(refuse("inodes", text, format!("allow at most {MOST_INODES}")));
        }
        let wanted = inodes.unwrap_or((disk / BYTES_PER_INODE).clamp(LEAST_INODES, MOST_INODES)) + OWN_INODES;
        // The size decides the number of groups, their overhead decides the size: two rounds settle it, a third is
        // for the group that the second may have added.
        let mut bytes = disk;
        let mut made = wanted;
        for _ in 0..3 {
            let blocks = bytes.div_ceil(BLOCK);
            let groups = blocks.div_ceil(GROUP_BLOCKS);
            let each = wanted.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
            made = each * groups;
            // Per group a bitmap of blocks and one of inodes; copies of the superblock and of the group descriptors
            // (64 of 64 bytes in a block) are in few groups, 25 at this size.
            let descriptors = (groups.div_ceil(64) + 1) * groups.min(25);
            // The kernel keeps 2 % or 4096 blocks back for its own needs, whatever is less (ext4, `s_resv_clusters`).
            let reserve = (blocks / 50).min(4096);
            let overhead = made * INODE / BLOCK + 2 * groups + descriptors + reserve + 16;
            bytes = disk.next_multiple_of(BLOCK) + overhead * BLOCK + (JOURNAL_MIB << 20);
        }
        Ok(Self { bytes, inodes: made })
    }
}

#[cfg(test)]
mod tests {
    use super::{Geometry, LEAST};

    #[test]
    fn an_image_has_room_for_the_limit_and_little_more() {
        for disk in [LEAST, 64 << 20, 1 << 30, 10 << 30, 1 << 40] {
            let image = Geometry::for_limits("resources", disk, None).unwrap();
            assert!(image.bytes > disk, "{disk}");
            // Inodes of 256 bytes for each 16 KiB are 1.6 %; the reserve is at most 2 %.
            assert!(image.bytes < disk + disk / 20 + (6 << 20), "{disk}: {}", image.bytes);
        }
    }

    #[test]
    fn the_number_of_files_is_rounded_up_by_less_than_a_block_of_inodes_for_each_group() {
        for (disk, inodes) in [(LEAST, 1), (64 << 20, 100), (1 << 30, 1000), (10 << 30, 5000)] {
            let image = Geometry::for_limits("resources", disk, Some(inodes)).unwrap();
            let groups = image.bytes.div_ceil(128 << 20);
            assert!(image.inodes >= inodes + 13, "{image:?}");
            assert!(image.inodes < inodes + 13 + 16 * groups, "{image:?}");
        }
    }

    #[test]
    fn limits_that_no_image_can_hold_are_refused() {
        assert!(Geometry::for_limits("resources", LEAST - 1, None).is_err());
        assert!(Geometry::for_limits("resources", u64::MAX, None).is_err());
        assert!(Geometry::for_limits("resources", 1 << 30, Some(u64::MAX)).is_err());
    }
}
