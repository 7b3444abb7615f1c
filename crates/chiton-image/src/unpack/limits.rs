//! What an image may have.

/// The most that an image may have. A hostile archive is small on the wire and endless when unpacked; whoever lets
/// others name images sets these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers of an image. The kernel stacks at most 500, and takes the names of about 300.
    pub layers: usize,
    /// Files, folders and links of one layer.
    pub entries: u64,
    /// Bytes of one layer, unpacked.
    pub layer_bytes: u64,
    /// Bytes of all layers as they are stored and sent.
    pub image_bytes: u64,
    /// How many times larger a layer may be unpacked than it is stored, once it has [`Limits::ratio_from`] bytes.
    pub ratio: u64,
    /// Up to so many bytes of a layer its ratio does not matter: small files of zeroes are common.
    pub ratio_from: u64,
}

impl Limits {
    /// Bytes of a manifest, an index or a config.
    pub const DOCUMENT_BYTES: u64 = 4 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 128,
            entries: 1_000_000,
            layer_bytes: 32 << 30,
            image_bytes: 32 << 30,
            ratio: 200,
            ratio_from: 128 << 20,
        }
    }
}

/// Whose the unpacked files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Each file's as the image says; the overlay's opaque mark is the privileged one. For root.
    #[default]
    Keep,
    /// All the unpacking user's; the overlay's opaque mark is the one of `userxattr` mounts, and folders can always be
    /// read, written and entered by their owner. For an ordinary user, who cannot give files away.
    Single,
}

impl Owner {
    /// The folder name of layers unpacked in this way.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Keep => "layers",
            Self::Single => "layers-of-one-owner",
        }
    }

    /// The extended attribute that makes a folder hide what is below it.
    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Self::Keep => "trusted.overlay.opaque",
            Self::Single => "user.overlay.opaque",
        }
    }
}
