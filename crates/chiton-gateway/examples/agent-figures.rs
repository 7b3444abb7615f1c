//! Measures the embedded agent against the hub: start to connected, `true` and health round trips, size and memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chiton_gateway::sessions::{AgentClient, Sessions, Tokens};
use chiton_model::SandboxId;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::{ExecInput, ExecStart, HealthRequest};

struct AnyToken;

#[async_trait]
impl Tokens for AnyToken {
    async fn verify(&self, _sandbox: &SandboxId, _sha256: &[u8; 32]) -> bool {
        true
    }

    async fn start_of(&self, _sandbox: &SandboxId, _sha256: &[u8; 32]) -> Option<String> {
        None
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn start(binary: &Path, folder: &Path, attempt: usize) -> std::io::Result<Child> {
    Command::new(binary)
        .args(["agent", "--"])
        .env("CHITON_AGENT_SOCKET", folder.join("agent.sock"))
        .env("CHITON_AGENT_TOKEN", "t")
        .env("CHITON_AGENT_ATTEMPT", attempt.to_string())
        .stdin(Stdio::null())
        .spawn()
}

fn memory(pid: u32) -> std::io::Result<String> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let lines = rollup.lines().filter(|line| ["Rss:", "Pss:", "Anonymous:"].iter().any(|k| line.starts_with(k)));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
}

async fn run_true(client: &mut AgentClient) -> Result<(), Box<dyn std::error::Error>> {
    let begin = ExecStart { argv: vec!["/bin/true".into()], ..ExecStart::default() };
    let input = tokio_stream::iter([ExecInput { input: Some(Input::Start(begin)) }]);
    let mut output = client.exec(input).await?.into_inner();
    while output.message().await?.is_some() {}
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let binary = folder.path().join("chiton-agent");
    fs::write(&binary, chiton_agent_binary::AGENT)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let sandbox = SandboxId::new("s-figures")?;
    let sessions = Sessions::new(Arc::new(AnyToken));
    sessions.listen(&sandbox, folder.path())?;

    let mut connects = Vec::new();
    let mut floors = Vec::new();
    for attempt in 0..200 {
        let began = Instant::now();
        let mut agent = start(&binary, folder.path(), attempt)?;
        sessions.wait_connected(&sandbox, &attempt.to_string()).await?;
        connects.push(began.elapsed());
        agent.kill()?;
        agent.wait()?;
        let began = Instant::now();
        Command::new("/bin/true").status()?;
        floors.push(began.elapsed());
    }
    let mut agent = start(&binary, folder.path(), 1000)?;
    sessions.wait_connected(&sandbox, "1000").await?;
    let idle = memory(agent.id())?;
    let mut client = sessions.client(&sandbox)?;
    let (mut execs, mut healths) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let began = Instant::now();
        run_true(&mut client).await?;
        execs.push(began.elapsed());
        let began = Instant::now();
        client.health(HealthRequest {}).await?;
        healths.push(began.elapsed());
    }
    println!("binary           {} bytes", chiton_agent_binary::AGENT.len());
    println!(
        "spawn->connected {:?} p50   (floor: fork, exec and wait of /bin/true {:?})",
        median(connects),
        median(floors)
    );
    println!("exec true        {:?} p50", median(execs));
    println!("health           {:?} p50", median(healths));
    println!("memory, idle     {idle}");
    println!("memory, 1k execs {}", memory(agent.id())?);
    agent.kill()?;
    agent.wait()?;
    Ok(())
}
