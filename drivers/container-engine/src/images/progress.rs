//! How far a pull is, from the engine's lines about each layer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::models::CreateImageInfo;
use chiton_driver::transfer_in_words;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);

/// Bytes of layers, summed up.
#[derive(Default)]
pub(super) struct Progress {
    layers: BTreeMap<String, (i64, i64)>,
    told: Option<Instant>,
    unpacking: bool,
}

impl Progress {
    /// What this line changes, in words; nothing when it was said just now.
    pub(super) fn told(&mut self, piece: &CreateImageInfo) -> Option<String> {
        self.told_at(piece, Instant::now())
    }

    /// The same at a moment.
    pub(super) fn told_at(&mut self, piece: &CreateImageInfo, now: Instant) -> Option<String> {
        let layer = piece.id.as_ref()?;
        let detail = piece.progress_detail.as_ref();
        match piece.status.as_deref()? {
            "Downloading" => {
                let (current, total) = (detail?.current?, detail?.total?);
                self.layers.insert(layer.clone(), (current.clamp(0, total.max(0)), total.max(0)));
            }
            // Engines do not send the last bytes' line each time.
            "Download complete" => {
                let known = self.layers.get_mut(layer)?;
                known.0 = known.1;
            }
            "Extracting" if self.whole() && !self.unpacking => {
                self.unpacking = true;
                return Some("unpacking the image".to_owned());
            }
            _ => return None,
        }
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL) && !self.whole() {
            return None;
        }
        self.told = Some(now);
        let (bytes, of) = self.layers.values().fold((0, 0), |(bytes, of), layer| (bytes + layer.0, of + layer.1));
        Some(transfer_in_words("pulling", bytes.unsigned_abs(), of.unsigned_abs()))
    }

    fn whole(&self) -> bool {
        self.layers.values().all(|(bytes, of)| bytes == of)
    }
}
