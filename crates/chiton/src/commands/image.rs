//! `image`.

use std::process::ExitCode;

use chiton_client::from_status;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use chiton_proto::v1::pull_image_event::Event;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ANSWER_DEADLINE, Context, answer};
use crate::cli::ImageCommand;
use crate::output::{self, Table};
use crate::progress::Progress;

pub(super) async fn run(cx: &Context, command: ImageCommand) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    match command {
        ImageCommand::List { driver } => {
            let request = wire::ListImagesRequest { driver: driver.unwrap_or_default() };
            let answer = answer(client.list_images(request)).await?;
            if cx.json {
                output::document(&json!(answer.images.iter().map(document).collect::<Vec<_>>()));
            } else {
                output::line(&table(&answer.images).text());
            }
            return Ok(output::partial(&answer.failed, cx.json));
        }
        ImageCommand::Pull { image, driver } => {
            let request = wire::PullImageRequest { driver: driver.unwrap_or_default(), reference: image };
            let mut events = answer(client.pull_image(request)).await?;
            let mut progress = Progress::steps();
            let pulled = loop {
                // A pull tells of itself with every few bytes: one that says nothing for so long hangs.
                let event = progress.during(timeout(ANSWER_DEADLINE, events.message())).await.map_err(|_| {
                    Error::deadline(format!("the pull made no progress for {} s", ANSWER_DEADLINE.as_secs()))
                        .cure("try again: what came by now is kept")
                })?;
                match event.map_err(|status| from_status(&status))?.and_then(|event| event.event) {
                    Some(Event::Progress(text)) => progress.say(&text),
                    Some(Event::Pulled(image)) => break image,
                    None => return Err(Error::internal("the gateway ended the pull without a word")),
                }
            };
            drop(progress);
            if cx.json {
                output::document(&document(&pulled));
            } else {
                output::line(&pulled.digest);
            }
        }
        ImageCommand::Rm { image, driver } => {
            let request = wire::RemoveImageRequest { driver: driver.unwrap_or_default(), image };
            return Ok(removed(cx, &answer(client.remove_image(request)).await?));
        }
        ImageCommand::Prune { older_than, driver } => {
            let request = wire::PruneImagesRequest {
                driver: driver.unwrap_or_default(),
                older_seconds: older_than.map(|age| age.as_secs()),
            };
            return Ok(removed(cx, &answer(client.prune_images(request)).await?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn removed(cx: &Context, answer: &wire::RemoveImagesResponse) -> ExitCode {
    if cx.json {
        let images: Vec<Value> = answer.images.iter().map(document).collect();
        output::document(&json!({ "removed": images, "bytes": answer.bytes }));
        return output::partial(&answer.failed, cx.json);
    }
    for image in &answer.images {
        output::line(&format!("removed {}", image.digest));
    }
    output::note(&format!("{} free again", size(answer.bytes)));
    output::partial(&answer.failed, cx.json)
}

fn document(image: &wire::Image) -> Value {
    json!({
        "driver": image.driver,
        "references": image.references,
        "digest": image.digest,
        "bytes": image.bytes,
        "layers": image.layers,
        "used_at": output::time(image.used_at.as_ref()),
        "used_by": image.used_by,
        "pinned": image.pinned,
    })
}

fn table(images: &[wire::Image]) -> Table {
    let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "LAYERS", "SANDBOXES", "PINNED"]);
    for image in images {
        table.row([
            &image.references.join(","),
            image.digest.get(..19).unwrap_or(&image.digest),
            &size(image.bytes),
            &image.layers.to_string(),
            &image.used_by.len().to_string(),
            if image.pinned { "yes" } else { "" },
        ]);
    }
    table
}

fn size(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
