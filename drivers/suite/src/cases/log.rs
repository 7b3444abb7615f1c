//! The main process's output.

use std::sync::Arc;

use chiton_driver::{CallError, Feature, LogOptions};
use chiton_model::ErrorKind;
use futures::StreamExt as _;

use crate::life::{Life, failed};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Failure, Verdict, ensure, equal};

async fn kept(stage: &Stage) -> Verdict<Arc<Life>> {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    Ok(life)
}

pub(crate) async fn streams_are_told_apart(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let (_, output) = life.run(&life.script("echo out; echo err >&2; printf 'no end'")).await?;
    equal("standard output", &output.text(), &"out\nno end".to_owned())?;
    equal("standard error", &String::from_utf8_lossy(&output.stderr).into_owned(), &"err\n".to_owned())?;
    stage.nothing_left().await
}

pub(crate) async fn tail_and_since_choose(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let id = sandbox_id()?;
    let apart = stage.bench().log_step().as_secs_f64() + 0.3;
    life.launched(&life.script(&format!("echo a; sleep {apart}; echo b; sleep {apart}; echo c")), &id).await?;
    let (_, all) = life.ending(&id).await?;
    equal("the whole log", &all.text(), &"a\nb\nc\n".to_owned())?;
    // Read again, also by the next life: nothing was used up.
    let next = stage.life().await?;
    let whole = LogOptions::default();
    equal("the whole log, read again", &next.read(&id, whole.clone()).await?.text(), &"a\nb\nc\n".to_owned())?;
    for (lines, wanted) in [(0, ""), (1, "c\n"), (2, "b\nc\n"), (100, "a\nb\nc\n")] {
        let tail = LogOptions { tail: Some(lines), ..whole.clone() };
        equal(&format!("the last {lines} lines"), &next.read(&id, tail).await?.text(), &wanted.to_owned())?;
    }
    let stream = next.look("logs", next.driver.logs(&id, whole.clone())).await?;
    let stream = stream.map_err(|error| Failure::Call { call: "logs".to_owned(), error })?;
    let pieces: Vec<_> = stream.filter_map(|chunk| async { chunk.ok() }).collect().await;
    let times: Vec<_> = pieces.iter().map(|chunk| chunk.at).collect();
    equal("how many pieces there are", &times.len(), &3)?;
    ensure(times.is_sorted(), "the times of pieces", "in order", format!("{times:?}"))?;
    for at in times {
        let since = LogOptions { since: Some(at), ..whole.clone() };
        // Where the machine was busy, lines that were written one after another were taken at one time.
        let wanted: Vec<u8> =
            pieces.iter().filter(|chunk| chunk.at >= at).flat_map(|chunk| chunk.data.to_vec()).collect();
        let wanted = String::from_utf8_lossy(&wanted).into_owned();
        equal("what was written since a piece", &next.read(&id, since).await?.text(), &wanted)?;
    }
    next.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn follow_ends_with_the_process(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let id = sandbox_id()?;
    // It goes on talking, so that whoever starts from the end is known to follow when it has got something.
    let script = "trap 'echo last; exit 0' TERM; echo first; while :; do echo more; sleep 0.05; done";
    life.launched(&life.script(script), &id).await?;
    life.said(&id, "first").await?;
    // Two followers, and one that starts from the end.
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let end = LogOptions { tail: Some(0), ..follow.clone() };
    let (whole, also) = (life.followed(&id, follow.clone()).await?, life.followed(&id, follow).await?);
    let rest = life.followed(&id, end).await?;
    let (whole, also, rest, stopped) =
        tokio::join!(life.drained(whole), life.drained(also), life.drained(rest), life.stop(&id));
    stopped?;
    let whole = whole?.text();
    let between = whole.strip_prefix("first\n").and_then(|rest| rest.strip_suffix("last\n"));
    let every = between.is_some_and(|between| between.lines().all(|line| line == "more"));
    ensure(every, "what a follower got", "every line from the first to the last", format!("{whole:?}"))?;
    equal("what another follower got", &also?.text(), &whole)?;
    let rest = rest?.text();
    let late = rest.ends_with("last\n") && whole.ends_with(&rest);
    ensure(late, "what a late follower got", "the last lines", format!("{rest:?}"))?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn bytes_are_as_they_were(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let script = "printf '\\000\\001\\002\\377\\376\\r\\n\\033[0m\\200'; printf '\\303' ; printf '\\274\\n'";
    let (_, output) = life.run(&life.script(script)).await?;
    let wanted = b"\x00\x01\x02\xff\xfe\r\n\x1b[0m\x80\xc3\xbc\n";
    equal("binary output", &output.stdout, &wanted.to_vec())?;
    // A line that is longer than any buffer.
    let (_, output) = life.run(&life.script("head -c 300000 /dev/zero | tr '\\000' x; echo; echo end")).await?;
    let text = output.text();
    equal("the length of a long line and what follows", &text.len(), &(300_000 + 1 + 4))?;
    ensure(text.ends_with("x\nend\n"), "a long line", "whole", text.len())?;
    stage.nothing_left().await
}

pub(crate) async fn large_output_is_bounded(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let id = sandbox_id()?;
    // 64 MiB in lines of 64 bytes; a full log must not stop the process.
    let text = "0123456789abcdef".repeat(4);
    let text = &text[..63];
    let script = format!("yes {text} | head -n 1048576; echo the very end");
    life.launched(&life.script(&script), &id).await?;
    equal("the exit code of who writes much", &life.exit(&id).await?.code, &Some(0))?;
    let output = life.read(&id, LogOptions::default()).await?;
    let written = 64 * 1_048_576 + 13;
    ensure(output.stdout.len() < written, "what is kept of 64 MiB", "less", output.stdout.len())?;
    ensure(output.stdout.ends_with(b"the very end\n"), "what is kept", "the end of it", output.stdout.len())?;
    let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
    equal("the last line", &life.read(&id, tail).await?.text(), &"the very end\n".to_owned())?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn of_nothing_are_an_error(stage: Arc<Stage>) -> Verdict {
    let life = kept(&stage).await?;
    let id = sandbox_id()?;
    let logs = life.look("logs", life.driver.logs(&id, LogOptions::default())).await?;
    let error = failed("the log of what is not there", logs.map(drop))?;
    let absent = matches!(&error, CallError::NotRun(error) if error.kind == ErrorKind::NotFound);
    ensure(absent, "the log of what is not there", "NotRun, not_found", format!("{error:?}"))?;
    // Made and never started: there is a log, and nothing is in it.
    if life.driver.capabilities().two_phase_start() {
        life.create(&life.call(&life.sleeper(), &id).await?).await?;
        equal("the log before the start", &life.read(&id, LogOptions::default()).await?.stdout, &Vec::new())?;
        life.delete(&id).await?;
    }
    stage.nothing_left().await
}
