//! Where nothing is put into sandboxes.

use chiton_driver::{AgentLaunch, LogOptions};
use chiton_driver_suite::{Bench as _, Verdict};
use chiton_model::NetworkMode;
use futures::StreamExt as _;
use serde_json::json;

use crate::bench::{EngineBench, Target};
use crate::life::{Gateway, done, holds};

/// Where nothing is put into sandboxes, nothing is: no program, folder or variable of the gateway's.
pub async fn nothing_is_put_in_without_an_agent(target: Target) -> Verdict {
    let bench = EngineBench::without_agent(target)?;
    let gateway = Gateway::new(&bench).await?;
    let script = "[ -e /run/chiton ] || [ -e /run/chiton-agent ] && echo here; env; cat /proc/mounts; echo $$; exit 4";
    let request = Gateway::request(&bench.image(), script, NetworkMode::None);
    holds(!gateway.driver.capabilities().agent, "the driver's word", "no agent", ())?;
    let id = Gateway::sandbox()?;
    let mut call = gateway.call(&request, &id).await?;
    // Whoever hands credentials over all the same gives them to nobody.
    call.agent = Some(AgentLaunch { token: "a-token-for-nobody".to_owned(), attempt: "a-1".to_owned() });
    done("create", gateway.driver.create(&call).await)?;
    done("start", gateway.driver.start(&call).await)?;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = done("logs", gateway.driver.logs(&id, options).await)?;
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&done("logs", chunk)?.data));
    }
    holds(text.lines().last() == Some("1"), "the main process", "the first of its namespace", &text)?;
    for word in ["chiton", "CHITON", "here"] {
        // Its own root is named by the engine's folders, wherever they are.
        let own = |line: &&str| ["HOSTNAME", "overlay / "].iter().any(|own| line.starts_with(own));
        let found: Vec<_> = text.lines().filter(|line| line.contains(word) && !own(line)).collect();
        holds(found.is_empty(), "what the process sees", &format!("nothing with {word:?}"), found)?;
    }
    let found = bench.inspect(&id).await?;
    let exposed = bench.exposed(&gateway.id, &id).await?;
    holds(!exposed.contains("a-token-for-nobody"), "what is shown", "no token", ())?;
    let command = (&found["Path"], &found["Args"][0]);
    holds(command == (&json!("sh"), &json!("-c")), "what runs", "the command alone", command)?;
    let run = bench.folder(&gateway.id)?.join("run/agent");
    holds(!run.exists(), "the folder of agents' sockets", "not made", &run)?;
    // The log's end is not yet the news of the process's.
    crate::restart::until_exit(&mut gateway.driver.watch(), &id).await?;
    let exit = done("get", gateway.driver.get(&id).await)?;
    let text = format!("{exit:?}");
    holds(text.contains("code: Some(4)"), "its end", "code 4", text)?;
    gateway.delete(&id).await?;
    crate::trials::nothing_left(&bench, &gateway).await
}
