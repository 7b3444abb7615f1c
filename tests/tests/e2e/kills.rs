//! A gateway that dies in the midst of everything: after each death and restart, whatever is on the machine is owned by
//! a sandbox that lives, and every sandbox that lives has what it needs.
//!
//! The seed is printed; `CHITON_E2E_SEED` plays it again, `CHITON_E2E_KILLS` says how often. A replay makes the same
//! choices; what the machine does in the meantime is its own.

use std::time::{Duration, Instant};

use chiton_proto::v1 as wire;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::harness::{Gateway, Share, root};

const CONFIG: &str = r#"
[compute]
extensions = ["fault", "address-lease", "noop"]
[compute.extension."fault"]
folder = "{folder}"
[compute.extension."address-lease"]
range = "10.88.0.2-10.88.0.254"
folder = "{folder}/leases"
"#;

/// More would only make the looks longer.
const MOST: usize = 4;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text:?}: {error}")))
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().expect("text")
}

fn rows(gateway: &Gateway) -> Vec<Value> {
    gateway.json(&["sandbox", "list", "--all"]).as_array().expect("a list").clone()
}

/// A request that the gateway may not live to answer.
#[derive(Clone, Debug)]
enum Request {
    Create(String),
    Start(String),
    Stop(String),
    Delete(String),
}

impl Request {
    /// One that the sandboxes as they are allow.
    fn choose(random: &mut StdRng, round: u64, rows: &[Value]) -> Self {
        let of = |phases: &[&str]| -> Vec<String> {
            let found = rows.iter().filter(|row| phases.contains(&text(row, "phase")));
            found.map(|row| text(row, "id").to_owned()).collect()
        };
        let mut choices = Vec::new();
        if rows.len() < MOST {
            choices.push(Self::Create(format!("box-{round}")));
        }
        choices.extend(of(&["Stopped", "Completed"]).choose(random).cloned().map(Self::Start));
        choices.extend(of(&["Ready"]).choose(random).cloned().map(Self::Stop));
        choices.extend(of(&["Ready", "Stopped", "Completed", "Error"]).choose(random).cloned().map(Self::Delete));
        choices.choose(random).expect("something can always be asked for").clone()
    }

    /// Sends it; the answer is worth nothing when the gateway dies.
    async fn send(self, mut client: chiton_client::Client, request_id: String) -> Result<(), tonic::Status> {
        let by =
            |id| Some(wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Id(id)), ..Default::default() });
        match self {
            Self::Create(name) => {
                let request = wire::CreateSandboxRequest { name, request_id, ..Default::default() };
                client.create_sandbox(request).await.map(drop)
            }
            Self::Start(id) => {
                client.start_sandbox(wire::SandboxRequest { sandbox: by(id), request_id }).await.map(drop)
            }
            Self::Stop(id) => client.stop_sandbox(wire::SandboxRequest { sandbox: by(id), request_id }).await.map(drop),
            Self::Delete(id) => {
                let request = wire::DeleteSandboxRequest { sandbox: by(id), request_id, force: false };
                client.delete_sandbox(request).await.map(drop)
            }
        }
    }
}

/// Everything on the machine is owned, and every sandbox has what it needs.
fn check(gateway: &Gateway, when: &str) {
    let rows = rows(gateway);
    let effects = gateway.entries("effects");
    for row in &rows {
        let (id, phase) = (text(row, "id"), text(row, "phase"));
        let (wanted, leases): (&[&str], _) = match phase {
            "Ready" => (&["after_create", "after_ready", "before_create", "before_start"], 1),
            "Stopped" => (&["after_create", "before_create"], 1),
            "Error" => (&[], 0),
            _ => panic!("{when}: sandbox {id} is {phase} and nothing runs: {row:#}"),
        };
        let held: Vec<&str> = effects.iter().filter_map(|name| name.strip_prefix(id)?.strip_prefix('.')).collect();
        assert_eq!(held, wanted, "{when}: effects of sandbox {id}, which is {phase}: {row:#}");
        assert_eq!(gateway.leases(id), leases, "{when}: leases of sandbox {id}, which is {phase}");
        assert_eq!(row["obligations"], 0, "{when}: {row:#}");
    }
    let of = |phases: &[&str]| -> Vec<&str> {
        rows.iter().filter(|row| phases.contains(&text(row, "phase"))).map(|row| text(row, "id")).collect()
    };
    let (running, there) = (of(&["Ready"]), of(&["Ready", "Stopped"]));
    let strangers = gateway.strangers(&running, &there);
    assert!(strangers.is_empty(), "{when}: nobody owns\n{}", strangers.join("\n"));
    assert_eq!(gateway.entries("leases").len(), there.len(), "{when}: leases");
    assert_eq!(gateway.json(&["orphans", "list"]), json!([]), "{when}");
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]), "{when}");
    for id in running {
        let name = rows.iter().find(|row| text(row, "id") == id).map(|row| text(row, "name")).expect("its row");
        assert_eq!(gateway.shell(name, "echo here").ok(), "here\n", "{when}");
    }
}

#[test]
fn a_gateway_that_is_killed_at_any_moment_leaves_nothing_that_nobody_owns() {
    if !root() {
        return;
    }
    let seed = number("CHITON_E2E_SEED").unwrap_or_else(|| rand::rng().random());
    println!("CHITON_E2E_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut gateway = Gateway::sharing(CONFIG, Share::Whole);
    let begun = Instant::now();
    for round in 0..number("CHITON_E2E_KILLS").unwrap_or(50) {
        let request = Request::choose(&mut random, round, &rows(&gateway));
        let wait = Duration::from_micros(random.random_range(0..60_000));
        let when = format!("seed {seed}, round {round}, {request:?} killed after {wait:?}");
        println!("{when}");
        let request_id = format!("{seed}-{round}");
        let sent = gateway.ask(async |client| tokio::spawn(request.clone().send(client, request_id.clone())));
        #[expect(clippy::disallowed_methods, reason = "the moment of the kill")]
        std::thread::sleep(wait);
        gateway.kill();
        drop(gateway.runtime().block_on(sent).expect("no panic"));
        gateway.begin();
        gateway.until_idle();
        check(&gateway, &when);
        if let Request::Create(name) = &request {
            // The same request again makes the sandbox if it was never taken on, and no second one if it was.
            let again = gateway.ask(async |client| request.clone().send(client, request_id.clone()).await);
            again.unwrap_or_else(|status| panic!("{when}: the same request again: {status:?}"));
            gateway.until_idle();
            let made = rows(&gateway).iter().filter(|row| text(row, "name") == name).count();
            assert_eq!(made, 1, "{when}: sandboxes of one request");
        }
    }
    check(&gateway, "at the end");
    println!("took {:?}", begun.elapsed());
}
