//! Limits: each bites, or is refused.

use std::sync::Arc;

use chiton_driver::{Feature, Limit, PlanRequest};
use chiton_model::{CpuQuantity, ErrorKind, ExitStatus, MemoryQuantity};

use crate::life::Life;
use crate::look::Output;
use crate::stage::Stage;
use crate::verdict::{Failure, Stop, Verdict, ensure, equal, skip, tells, wrong};

/// Makes a hundred processes, and says so when all were made.
pub(crate) const FORKS: &str =
    "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; echo made all hundred; exit 50";

/// Shells end, or go on and complain: either way not all are made.
pub(crate) fn ran_out_of_pids(exit: &ExitStatus, output: &Output) -> Verdict {
    let complained = String::from_utf8_lossy(&output.stderr).to_lowercase().contains("fork");
    ensure(
        exit.code != Some(50) || complained,
        "a hundred processes beneath a limit of 24",
        "a refused fork",
        format!("{exit:?} with {}", output.shown()),
    )
}

fn memory(text: &str) -> Verdict<MemoryQuantity> {
    MemoryQuantity::parse("test", text).map_err(|error| Failure::bench("read a quantity", error).into())
}

fn cpu(text: &str) -> Verdict<CpuQuantity> {
    CpuQuantity::parse("test", text).map_err(|error| Failure::bench("read a quantity", error).into())
}

/// A limit that is declared is applied, or refused before anything is made with the reason and a cure: then there is
/// nothing more to see on this machine.
async fn enforceable(life: &Life, limit: Limit, request: &PlanRequest) -> Verdict {
    life.limits(limit)?;
    match life.plan(request).await {
        Err(Stop::Failed(failure)) => {
            let Failure::Refused { error, .. } = *failure else { return Err(Stop::Failed(failure)) };
            ensure(
                error.kind != ErrorKind::Internal,
                "the kind of a refusal",
                "one that says who or what",
                "internal",
            )?;
            tells(&error, &[])?;
            skip(format!("refused on this machine, as it must be: {error}"))
        }
        other => other.map(drop),
    }
}

pub(crate) async fn memory_bites(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let mut request = life.command(&["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"]);
    equal("the exit code without a limit", &life.run(&request).await?.0.code, &Some(0))?;
    request.resources.memory = Some(memory("64Mi")?);
    enforceable(&life, Limit::Memory, &request).await?;
    let (exit, output) = life.run(&request).await?;
    let mut told = (exit.code, exit.reason.as_str());
    if told.1 == "Signaled" && stage.bench().silent_about_memory().is_some() {
        told.1 = "OOMKilled";
    }
    equal(&format!("256 MiB beneath a limit of 64 MiB ({})", output.shown()), &told, &(Some(137), "OOMKilled"))?;
    stage.nothing_left().await
}

pub(crate) async fn pids_bite(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let mut request = life.script(FORKS);
    equal("the exit code without a limit", &life.run(&request).await?.0.code, &Some(50))?;
    request.resources.pids = Some(24);
    enforceable(&life, Limit::Pids, &request).await?;
    let (exit, output) = life.run(&request).await?;
    ran_out_of_pids(&exit, &output)?;
    stage.nothing_left().await
}

pub(crate) async fn cpu_bites(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    // Seconds of the clock and of the processor (user and system, in hundredths) while a loop runs.
    let script = "read begin rest < /proc/uptime; while :; do :; done & p=$!; sleep 3; \
                  set -- $(cat /proc/$p/stat); read end rest < /proc/uptime; \
                  echo $begin $end ${14} ${15}; kill -9 $p";
    let mut request = life.script(script);
    request.resources.cpu = Some(cpu("200m")?);
    enforceable(&life, Limit::Cpu, &request).await?;
    let (_, output) = life.run(&request).await?;
    let text = output.text();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [begin, end, user, system] = numbers[..] else {
        return Err(wrong("the loop's times", "four numbers", output.shown()));
    };
    let share = (user + system) / 100.0 / (end - begin);
    ensure(
        share < 0.35,
        "the share of a processor beneath a limit of 0.2",
        "about 0.2",
        format!("{share:.2} ({text:?})"),
    )?;
    ensure(share > 0.02, "the share of a processor beneath a limit of 0.2", "some", format!("{share:.2} ({text:?})"))?;
    stage.nothing_left().await
}

pub(crate) async fn disk_bites(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let script = "dd if=/dev/zero of=/tmp/x bs=64k count=1024 2> /dev/null && exit 60; rm /tmp/x; \
                  dd if=/dev/zero of=/tmp/x bs=64k count=64 2> /dev/null && exit 61; exit 62";
    let mut request = life.script(script);
    request.resources.disk = Some(memory("32Mi")?);
    enforceable(&life, Limit::Disk, &request).await?;
    let (exit, output) = life.run(&request).await?;
    let what = format!("64 MiB and then 4 MiB beneath a limit of 32 MiB ({})", output.shown());
    equal(&what, &exit.code, &Some(61))?;
    stage.nothing_left().await
}

pub(crate) async fn inodes_bite(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let script = "mkdir /tmp/d; i=0; while [ $i -lt 600 ]; do (: > /tmp/d/$i) 2> /dev/null || exit 71; i=$((i+1)); done; exit 70";
    let mut request = life.script(script);
    life.limits(Limit::Inodes)?;
    request.resources.disk = life.limits(Limit::Disk).is_ok().then(|| memory("32Mi")).transpose()?;
    request.resources.inodes = Some(300);
    enforceable(&life, Limit::Inodes, &request).await?;
    let (exit, output) = life.run(&request).await?;
    equal(&format!("600 files beneath a limit of 300 ({})", output.shown()), &exit.code, &Some(71))?;
    stage.nothing_left().await
}

pub(crate) async fn open_files_bite(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let script = "[ $(ulimit -Hn) = 64 ] || exit 80; [ $(ulimit -Sn) = 64 ] || exit 81; \
                  (ulimit -Hn 128) 2> /dev/null && exit 82; exit 83";
    let mut request = life.script(script);
    request.resources.open_files = Some(64);
    enforceable(&life, Limit::OpenFiles, &request).await?;
    let (exit, output) = life.run(&request).await?;
    equal(&format!("a look at a limit of 64 open files ({})", output.shown()), &exit.code, &Some(83))?;
    stage.nothing_left().await
}

pub(crate) async fn absurd_ones_are_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let mut absurd = Vec::new();
    for (limit, text) in [(Limit::Memory, "1"), (Limit::Disk, "1")] {
        let mut request = life.sleeper();
        let place = if limit == Limit::Memory { &mut request.resources.memory } else { &mut request.resources.disk };
        *place = Some(memory(text)?);
        absurd.push((limit, request));
    }
    let mut request = life.sleeper();
    request.resources.pids = Some(0);
    absurd.push((Limit::Pids, request));
    let mut request = life.sleeper();
    request.resources.open_files = Some(u32::MAX);
    absurd.push((Limit::OpenFiles, request));
    // Engines take each of these for "no limit", or make something that cannot start.
    for (limit, request) in absurd {
        if life.limits(limit).is_err() {
            continue;
        }
        let error = life.refused(&format!("an absurd limit of {}", limit.as_str()), &request).await?;
        tells(&error, &[])?;
    }
    stage.nothing_left().await
}

pub(crate) async fn undeclared_ones_are_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let all = [Limit::Cpu, Limit::Memory, Limit::Pids, Limit::Disk, Limit::Inodes, Limit::OpenFiles];
    for limit in all.into_iter().filter(|limit| life.limits(*limit).is_err()) {
        let mut request = life.sleeper();
        let resources = &mut request.resources;
        match limit {
            Limit::Cpu => resources.cpu = Some(cpu("1")?),
            Limit::Memory => resources.memory = Some(memory("64Mi")?),
            Limit::Pids => resources.pids = Some(64),
            Limit::Disk => resources.disk = Some(memory("64Mi")?),
            Limit::Inodes => resources.inodes = Some(1000),
            Limit::OpenFiles => resources.open_files = Some(64),
        }
        // The engine refuses it by the capabilities; a driver that is asked all the same must not ignore it either.
        match life.look("default_plan", life.driver.default_plan(&request)).await? {
            Err(error) => tells(&error, &[])?,
            Ok(plan) => {
                let Err(error) = life.look("validate", life.driver.validate(&plan.plan)).await? else {
                    let what = format!("an undeclared limit of {}", limit.as_str());
                    return Err(wrong(&what, "a refusal", "an accepted plan"));
                };
                tells(&error, &[])?;
            }
        }
    }
    stage.nothing_left().await
}
