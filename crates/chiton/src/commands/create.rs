//! `sandbox create`.

use std::process::ExitCode;

use chiton_model::Error;
use chiton_proto::v1 as wire;

use super::{Context, answer, request_id, unique};
use crate::cli::CreateArgs;
use crate::output;
use crate::wait;

/// The request that the options of create and plan describe.
pub(super) fn request(args: CreateArgs) -> Result<wire::CreateSandboxRequest, Error> {
    let mut driver_config = std::collections::HashMap::new();
    if let Some(text) = args.driver_config {
        let driver = args.driver.clone().ok_or_else(|| {
            Error::invalid("driver_config", "options of a driver's own need to say which driver")
                .cure("add --driver ID")
        })?;
        driver_config.insert(driver, text);
    }
    Ok(wire::CreateSandboxRequest {
        name: args.name.unwrap_or_default(),
        workspace: args.workspace,
        spec: Some(wire::SandboxSpec {
            image: args.image.unwrap_or_default(),
            command: args.command,
            env: unique("env", args.env)?,
            labels: unique("label", args.label)?,
            resources: Some(wire::Resources {
                cpu: args.cpu.unwrap_or_default(),
                memory: args.memory.unwrap_or_default(),
                pids: args.pids.unwrap_or_default(),
                disk: args.disk.unwrap_or_default(),
                inodes: args.inodes.unwrap_or_default(),
                open_files: args.open_files.unwrap_or_default(),
            }),
            network: Some(wire::Network { mode: args.network.unwrap_or_default(), allow: args.allow, dns: args.dns }),
            volumes: args.volume,
            workdir: args.workdir.unwrap_or_default(),
            secrets: unique("secret", args.secret)?,
            extensions: args.extension,
            driver: args.driver.unwrap_or_default(),
            driver_config,
        }),
        expect_plan: args.expect_plan.unwrap_or_default(),
        request_id: request_id(),
    })
}

pub(super) async fn run(cx: &Context, args: CreateArgs) -> Result<ExitCode, Error> {
    let no_wait = args.no_wait;
    let mut client = cx.connect().await?;
    let answer = answer(client.create_sandbox(request(args)?)).await?;
    let mut sandbox = answer.sandbox.unwrap_or_default();
    if !no_wait && !answer.operation.is_empty() {
        let outcome = wait::outcome(&mut client, &answer.operation).await?;
        sandbox = wait::settle(outcome)?.unwrap_or(sandbox);
    }
    if cx.json {
        output::document(&output::sandbox(&sandbox));
    } else {
        output::line(&sandbox.name);
    }
    Ok(ExitCode::SUCCESS)
}
