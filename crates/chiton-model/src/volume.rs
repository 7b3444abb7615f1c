//! Named volumes in requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::name::VolumeName;

/// The most volumes of one sandbox.
const VOLUMES: usize = 32;

/// A named volume shown in a sandbox. The volume outlives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume, within the sandbox's workspace. Made when it is not there.
    pub name: VolumeName,
    /// Absolute path in the sandbox.
    pub target: String,
    /// Whether it cannot be written there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Checks the volumes of one request: sound targets, none twice and none within another.
pub(crate) fn check(volumes: &[VolumeMount]) -> Result<(), Error> {
    if volumes.len() > VOLUMES {
        let text = format!("{} volumes are more than the {VOLUMES} that one sandbox may have", volumes.len());
        return Err(Error::invalid("volumes", text).cure("keep things together in fewer volumes"));
    }
    for (index, volume) in volumes.iter().enumerate() {
        let target = &volume.target;
        let plain = target.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'))
        });
        if !plain {
            let text = format!("{target:?} is not an absolute path without \"..\" and doubled slashes");
            return Err(Error::invalid(format!("volumes[{index}].target"), text)
                .cure("write the path from \"/\" without detours, for example /data"));
        }
        let inside =
            |one: &str, other: &str| one == other || one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        let clash =
            volumes[..index].iter().find(|other| inside(target, &other.target) || inside(&other.target, target));
        if let Some(other) = clash {
            let text = format!("{target:?} and {:?} lie in each other", other.target);
            return Err(Error::invalid(format!("volumes[{index}].target"), text).cure("show volumes at separate paths"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{VolumeMount, check};
    use crate::name::VolumeName;

    fn at(targets: &[&str]) -> Vec<VolumeMount> {
        let name = VolumeName::new("data").unwrap();
        targets
            .iter()
            .map(|target| VolumeMount { name: name.clone(), target: (*target).to_owned(), read_only: false })
            .collect()
    }

    #[test]
    fn targets_must_be_plain_and_apart() {
        assert!(check(&at(&["/data", "/database", "/srv/x"])).is_ok());
        for targets in
            [&["data"][..], &["/"], &["/a/../b"], &["/a//b"], &["/a/"], &["/a", "/a"], &["/a/b", "/a"], &["/a\0"]]
        {
            assert!(check(&at(targets)).is_err(), "{targets:?}");
        }
    }
}
