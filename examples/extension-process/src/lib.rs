//! An extension that runs beside the gateway: it labels every sandbox and leases it a number, which the sandbox finds in
//! its variable `TICKET`. Written as one that is compiled in: the trait, the config and the rules are the same, and only
//! `main.rs` differs.
//!
//! A lease is a file named by the number, with the sandbox's id in it: found again by id, whoever forgot what.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;

use async_trait::async_trait;
use chiton_driver::Point;
use chiton_lifecycle::extension::{
    Descriptor, Draft, Extension, ExtensionKind, HookContext, RequestContext, SlotValues, StepError, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran};
use schemars::JsonSchema;
use serde::Deserialize;

/// The config: `[compute.extension."tickets"]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the folder in which leases are kept. It must exist.
    pub folder: PathBuf,
    /// How many numbers there are, from 1.
    pub count: u32,
    /// The value of the label `example.com/tickets`.
    pub label: String,
}

/// The extension.
#[derive(Debug)]
pub struct Tickets(Config);

/// What is served.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [Phase::PreparePlan, Phase::BeforeCreate, Phase::OnCreateFailed, Phase::AfterDelete];
    let about = "A label, and a number for every sandbox";
    let mut descriptor = Descriptor::new("tickets", env!("CARGO_PKG_VERSION"), about, phases)?;
    descriptor.needs.points.extend([Point::Label, Point::Env]);
    // System calls of this process: none is on its way once it died.
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |config| Ok(Tickets(config))))
}

/// The lease of a sandbox: the one it has, else a new one; none when all are taken.
fn lease(config: &Config, id: &str) -> io::Result<Option<u32>> {
    for number in 1..=config.count {
        if fs::read_to_string(config.folder.join(number.to_string())).is_ok_and(|holder| holder == id) {
            return Ok(Some(number));
        }
    }
    // Whole or not at all: under a name that is nobody's, then under the number, which only one can have.
    let own = config.folder.join(format!("{id}.new"));
    let mut file = File::create(&own)?;
    file.write_all(id.as_bytes())?;
    let mut taken = Ok(None);
    for number in 1..=config.count {
        match fs::hard_link(&own, config.folder.join(number.to_string())) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => {
                taken = linked.map(|()| Some(number));
                break;
            }
        }
    }
    fs::remove_file(own)?;
    taken
}

/// Frees whatever a sandbox holds, also nothing.
fn free(config: &Config, id: &str) -> io::Result<()> {
    for entry in fs::read_dir(&config.folder)? {
        let path = entry?.path();
        if fs::read_to_string(&path).is_ok_and(|holder| holder == id) || path.ends_with(format!("{id}.new")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn failed(error: &io::Error) -> StepError {
    StepError::retryable(format!("the folder of leases cannot be used: {error}"))
}

impl Tickets {
    async fn free(&self, cx: &HookContext) -> StepResult {
        let (config, id) = (self.0.clone(), cx.sandbox.to_string());
        cx.blocking(move || free(&config, &id)).await?.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl Extension for Tickets {
    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let number = draft.slot("number");
        draft.portable().env("TICKET", &number)?;
        draft.portable().label("example.com/tickets", &self.0.label)
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let (config, id) = (self.0.clone(), cx.sandbox.to_string());
        let leased = cx.blocking(move || lease(&config, &id)).await?.map_err(|error| failed(&error))?;
        let number = leased.ok_or_else(|| StepError::Exhausted {
            resource: "tickets".to_owned(),
            message: format!("all {} are taken", self.0.count),
        })?;
        Ok(SlotValues::from([("number".to_owned(), number.to_string())]))
    }

    async fn on_create_failed(&self, cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.free(cx).await
    }

    async fn after_delete(&self, cx: &HookContext, _ran: Ran) -> StepResult {
        self.free(cx).await
    }
}
