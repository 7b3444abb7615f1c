//! Quantities and limits.

use chiton_compute_wire::v1::DriverResourceRequirements;
use tonic::Code;

use crate::ask::Ask as _;
use crate::stage::Stage;
use crate::verdict::{Verdict, broken, said};

/// No quantities, whoever reads them.
const NONSENSE: &[&str] = &[
    "NaN",
    "-1",
    "-500m",
    "1e400",
    "inf",
    "12 parsecs",
    "2Zz",
    "0x10",
    "1_000",
    "--1",
    "Gi",
    "1Gi2",
    "５００m",
    "1,5",
    " ",
    "1\n",
];

/// Quantities of cpu and memory.
const SOUND: &[(&str, &str)] = &[("500m", "256Mi"), ("1", "1Gi"), ("0.5", "268435456"), ("2", "512M"), ("1", "300e6")];

fn cpu(text: &str) -> DriverResourceRequirements {
    DriverResourceRequirements { cpu_limit: text.to_owned(), ..DriverResourceRequirements::default() }
}

fn memory(text: &str) -> DriverResourceRequirements {
    DriverResourceRequirements { memory_limit: text.to_owned(), ..DriverResourceRequirements::default() }
}

pub(crate) async fn nonsense_is_refused(stage: &Stage) -> Verdict {
    // A driver without limits may refuse every one by a rule of its own.
    let codes = [Code::InvalidArgument, Code::FailedPrecondition];
    for text in NONSENSE {
        for (field, resources) in [("cpu_limit", cpu(text)), ("memory_limit", memory(text))] {
            let sandbox = stage.sandbox().resources(resources);
            stage.refused(&format!("{field} {text:?}"), &sandbox, &codes).await?;
        }
    }
    Ok(())
}

pub(crate) async fn sound_ones_are_understood(stage: &Stage) -> Verdict {
    for (cpu_limit, memory_limit) in SOUND {
        let resources = DriverResourceRequirements {
            cpu_limit: (*cpu_limit).to_owned(),
            memory_limit: (*memory_limit).to_owned(),
            ..DriverResourceRequirements::default()
        };
        let call = format!("CreateSandbox with cpu_limit {cpu_limit:?} and memory_limit {memory_limit:?}");
        match stage.create(&stage.sandbox().resources(resources)).await? {
            Ok(()) => {}
            // A platform that has no such limit, or not so much of it, says so.
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::ResourceExhausted) => {}
            Err(status) => return Err(broken(call, "OK, FAILED_PRECONDITION or RESOURCE_EXHAUSTED", said(&status))),
        }
    }
    Ok(())
}

pub(crate) async fn memory_is_applied_or_refused(stage: &Stage) -> Verdict {
    // `tail` holds all that it is to print at last in memory.
    let script =
        "n=$(head -c 100663296 /dev/zero | tail -c 100663296 | wc -c); [ \"$n\" -eq 100663296 ] && exit 41; exit 40";
    let sandbox = stage.script(script, &[])?.resources(memory("64Mi"));
    if let Err(status) = stage.create(&sandbox).await? {
        let refusals = [Code::FailedPrecondition, Code::InvalidArgument];
        return crate::verdict::refused::<()>("CreateSandbox with a memory limit", Err(status), &refusals).map(drop);
    }
    match stage.end(&sandbox).await? {
        41 => Err(broken("a process that takes 96 MiB under a limit of 64 MiB", "its end", "it was let")),
        _ => Ok(()),
    }
}
