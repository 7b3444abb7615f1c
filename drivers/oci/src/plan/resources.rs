//! Limits.

use chiton_model::{CpuQuantity, Error, MemoryQuantity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits; an absent one is not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPlan {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Memory, swap included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

/// Sets one limit from its portable form.
pub(super) fn write_resource(resources: &mut ResourcesPlan, name: &str, quantity: &str) -> Result<(), Error> {
    let field = format!("resources.{name}");
    match name {
        "cpu" => resources.cpu = Some(CpuQuantity::parse(&field, quantity)?),
        "memory" => resources.memory = Some(MemoryQuantity::parse(&field, quantity)?),
        "pids" => {
            let pids = quantity.parse().ok().filter(|pids| *pids > 0);
            let pids = pids.ok_or_else(|| {
                Error::invalid(&field, format!("pids limit {quantity:?} is not a positive whole number"))
                    .cure("write a number, for example \"256\"")
            })?;
            resources.pids = Some(pids);
        }
        _ => {
            return Err(Error::invalid(&field, format!("there is no limit called {name:?}"))
                .cure("the limits are \"cpu\", \"memory\" and \"pids\""));
        }
    }
    Ok(())
}
