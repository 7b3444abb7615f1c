//! The real program with real sandboxes, beside the container library alone and beside a container engine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::docker::Docker;
use crate::figures::{Disk, Figures, millis};
use crate::gateway::{Done, Gateway, create, delete, exec_true, spec};
use crate::library;
use crate::steps::Steps;

/// Execs a round.
const EXECS: usize = 10;

pub(crate) async fn run(rounds: usize) -> Done<()> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let bundle = library::bundle(folder.path())?;
    library::image(&folder.path().join("image"), 0)?;
    let gateway = Gateway::start(folder.path())?;
    let idle = (gateway.memory("Rss:")?, gateway.memory("Private_Dirty:")?);
    let mut client = gateway.client().await?;
    let docker = Docker::start(folder.path(), &folder.path().join("image"))?;
    let [mut docker_run, mut docker_exec, mut docker_rm] = std::array::from_fn(|_| Figures::default());
    let image = format!("dir:{}", folder.path().join("image").display());
    let mut steps = Steps::default();
    let mut floor = Disk::open(folder.path())?;
    let [mut raw, mut sync, mut ready, mut gone, mut api, mut cli] = std::array::from_fn(|_| Figures::default());
    for round in 0..=rounds {
        let library = library::round(&gateway, &bundle, folder.path(), round)?;
        let synced = floor.sync()?;
        if let Some(docker) = &docker {
            let name = format!("bench-{round}");
            let took =
                (docker.create(&name)?, docker.run(&["exec", &name, "true"])?, docker.run(&["rm", "-f", &name])?);
            if round > 0 {
                docker_run.add(took.0);
                docker_exec.add(took.1);
                docker_rm.add(took.2);
            }
        }
        let name = format!("bench-{round}");
        let begin = Instant::now();
        create(&mut client, &name, spec(&image)).await?;
        let created = begin.elapsed();
        if round > 0 {
            steps.take(&folder.path().join("data"))?;
        }
        for _ in 0..EXECS {
            let begin = Instant::now();
            exec_true(&mut client, &name).await?;
            api.add(begin.elapsed());
        }
        let begin = Instant::now();
        let status = Command::new(&gateway.program)
            .args(["--gateway", &gateway.address, "sandbox", "exec", &name, "--", "true"])
            .stdin(Stdio::null())
            .status()?;
        let whole = begin.elapsed();
        if !status.success() {
            return Err("exec failed".into());
        }
        let begin = Instant::now();
        delete(&mut client, &name).await?;
        // The first round fills caches.
        if round > 0 {
            gone.add(begin.elapsed());
            raw.add(library);
            sync.add(synced);
            ready.add(created);
            cli.add(whole);
        }
    }
    println!("\n# real sandboxes, driver oci");
    sync.report("F: fdatasync of 4 KiB");
    raw.report("container library alone, create + start");
    ready.report("create → agent ready, over the API");
    steps.report();
    let goal = raw.median().mul_f64(1.3) + sync.median() * 2 + Duration::from_millis(5);
    println!(
        "create → ready: {:.2} × the library; goal 1.3 × + 2 F + 5 ms = {:.3} ms",
        ready.median().as_secs_f64() / raw.median().as_secs_f64(),
        millis(goal)
    );
    api.report("exec true, over the API (goal 2 ms)");
    cli.report("exec true, whole CLI process (goal 6 ms)");
    gone.report("delete of a running sandbox");
    if docker.is_some() {
        docker_run.report("docker run --detach, whole CLI process");
        docker_exec.report("docker exec true, whole CLI process");
        docker_rm.report("docker rm --force, whole CLI process");
        println!(
            "docker run is {:.1} × create → ready, docker exec {:.1} × exec by the CLI",
            docker_run.median().as_secs_f64() / ready.median().as_secs_f64(),
            docker_exec.median().as_secs_f64() / cli.median().as_secs_f64()
        );
    }
    println!("gateway idle: {} KiB resident, {} KiB private dirty (goal 20 MiB)", idle.0, idle.1);
    Ok(())
}
