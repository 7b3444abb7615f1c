//! What the driver says of itself.

use chiton_compute_wire::v1::GetCapabilitiesResponse;

use crate::stage::Stage;
use crate::verdict::{By, Verdict, broken, ensure, equal, must, not_here};

async fn asked(stage: &Stage) -> Verdict<GetCapabilitiesResponse> {
    must("GetCapabilities", stage.wire.capabilities().await?)
}

pub(crate) async fn are_stable(stage: &Stage) -> Verdict {
    let first = asked(stage).await?;
    equal("the second answer", &asked(stage).await?, &first)?;
    let other = stage.connect().await?;
    equal("the answer on another connection", &must("GetCapabilities", other.capabilities().await?)?, &first)
}

pub(crate) async fn name_is_sound(stage: &Stage) -> Verdict {
    let name = asked(stage).await?.driver_name;
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let sound = (1..=63).contains(&name.len()) && name.chars().all(fine);
    ensure(sound, "driver_name", "1 to 63 letters, digits, dots, hyphens and underscores", format!("{name:?}"))
}

pub(crate) async fn version_is_sound(stage: &Stage) -> Verdict {
    let version = asked(stage).await?.driver_version;
    match semver::Version::parse(&version) {
        Ok(_) => Ok(()),
        Err(error) => Err(broken("driver_version", "a version by semver", format!("{version:?}: {error}"))),
    }
}

pub(crate) async fn backend_is_named(stage: &Stage) -> Verdict {
    let capabilities = asked(stage).await?;
    if capabilities.contract_version == 0 {
        return not_here(By::Driver, "contract_version is 0: the driver does not speak the additions");
    }
    ensure(!capabilities.backend_id.is_empty(), "backend_id", "a name of the installation", "nothing")
}
