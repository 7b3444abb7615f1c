//! What may be an image's name at all, said before the engine sees it.

use chiton_image::{Digest, ImageError, Policy, Reference};
use chiton_model::{Error, printable};

/// What a request or the operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A layout or an archive.
    File,
    /// An image of the engine by its id, whole.
    Id,
    /// A name that an engine or a registry may know.
    Plain,
}

impl Name {
    /// Reads a name as far as it can be read without looking anywhere.
    pub(super) fn read(kind: &str, driver: &str, text: &str) -> Result<Self, Error> {
        let first = text.split([':', '/']).next().unwrap_or_default();
        if text == "host" || text.starts_with("dir:") {
            let shown = shortened(text);
            return Err(Error::unsupported(driver, "image", format!("{kind} runs images, and {shown:?} is none"))
                .cure("name an image of the engine or of a registry, oci:PATH or tar:PATH; or use the oci driver"));
        }
        // What a URL, a log or another program could take for something else.
        if text.chars().any(|c| c.is_control() || c.is_whitespace())
            && !text.starts_with("oci:/")
            && !text.starts_with("tar:/")
        {
            return Err(Error::invalid(
                "image",
                format!("image {:?} holds a space or a control character", shortened(text)),
            )
            .cure("write the name without it"));
        }
        if matches!(first, "oci" | "tar") && text[3..].starts_with(':') {
            let checked = Reference::parse(text, &Policy::default());
            return checked.map(|_| Self::File).map_err(Error::from);
        }
        if first == "sha256" && text[6..].starts_with(':') {
            return match text.parse::<Digest>() {
                Ok(_) => Ok(Self::Id),
                Err(_) => Err(Error::invalid(
                    "image",
                    format!("image {:?} is not the whole id of an image", shortened(text)),
                )
                .cure("write \"sha256:\" and all 64 digits, in small letters, as chiton image list --json shows them")),
            };
        }
        // Whether there is a registry for a name without one is decided when it is asked.
        let anywhere = Policy { default_registry: Some("docker.io".to_owned()), ..Policy::default() };
        match Reference::parse(text, &anywhere) {
            Ok(_) => Ok(Self::Plain),
            Err(ImageError::Reference { why, cure, .. }) => {
                Err(Error::invalid("image", format!("image {:?}: {why}", shortened(text))).cure(cure))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A name as a message shows it: the beginning tells people which one it was.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    printable(&shown)
}

/// Whether the engine took a name for the beginning of an image's id, which is nobody's name.
pub(super) fn is_part_of_id(text: &str, id: &str) -> bool {
    id.strip_prefix("sha256:").unwrap_or(id).starts_with(text)
}
