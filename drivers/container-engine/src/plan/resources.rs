//! Limits.

use chiton_driver::parse_count;
use chiton_model::{CpuQuantity, Error, MemoryQuantity, Resources};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::Abilities;
use crate::options::EngineOptions;

/// Limits of the sandbox. Each is enforced or refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPlan {
    /// Processor time, in processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Memory without swap, in bytes; at least 6 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Open files of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
}

impl ResourcesPlan {
    /// The limits of a request over the operator's defaults, which are for engines that enforce them.
    pub(super) fn of(asked: &Resources, options: &EngineOptions, abilities: Abilities) -> Self {
        let memory = options.default_memory.clone().filter(|_| abilities.memory);
        Self {
            cpu: asked.cpu.clone(),
            memory: asked.memory.clone().or(memory),
            pids: asked.pids.or(options.default_pids.filter(|_| abilities.pids)),
            open_files: asked.open_files,
        }
    }

    /// Sets one limit from its portable form.
    pub(super) fn write(&mut self, name: &str, quantity: &str) -> Result<(), Error> {
        let field = format!("resources.{name}");
        match name {
            "cpu" => self.cpu = Some(CpuQuantity::parse(&field, quantity)?),
            "memory" => self.memory = Some(MemoryQuantity::parse(&field, quantity)?),
            "pids" => self.pids = Some(parse_count(&field, quantity)?),
            "open_files" => self.open_files = Some(parse_count(&field, quantity)?),
            _ => {
                return Err(Error::invalid(&field, format!("there is no limit called {name:?}"))
                    .cure("the limits are \"cpu\", \"memory\", \"pids\" and \"open_files\""));
            }
        }
        Ok(())
    }

    /// Refuses what no engine takes.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.memory.as_ref().is_some_and(|memory| memory.bytes() < EngineOptions::LEAST_MEMORY) {
            return Err(Error::invalid("resources.memory", "container engines give at least 6 MiB of memory")
                .cure("ask for at least 6Mi"));
        }
        if self.cpu.as_ref().is_some_and(|cpu| cpu.millicores() < 10) {
            return Err(Error::invalid("resources.cpu", "container engines give at least a hundredth of a processor")
                .cure("ask for at least 10m"));
        }
        for (name, count) in [("pids", self.pids), ("open_files", self.open_files)] {
            if count == Some(0) {
                let text = format!("a sandbox with no {name} cannot run, and engines take 0 for no limit");
                return Err(Error::invalid(format!("resources.{name}"), text).cure("ask for more, or leave it out"));
            }
        }
        let most = most_open_files();
        if self.open_files.is_some_and(|files| u64::from(files) > most) {
            let text = format!("a process of this machine can have at most {most} open files");
            return Err(Error::invalid("resources.open_files", text).cure("ask for less"));
        }
        Ok(())
    }
}

/// The kernel's own bound; the engine is on this machine.
fn most_open_files() -> u64 {
    let read = std::fs::read_to_string("/proc/sys/fs/nr_open");
    read.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20)
}
