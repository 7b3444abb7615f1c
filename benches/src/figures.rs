//! Medians, and the disk's floor.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Times of one thing.
#[derive(Default)]
pub(crate) struct Figures(Vec<Duration>);

impl Figures {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// One line: what, median, 90th percentile, how many.
    pub(crate) fn report(&self, what: &str) {
        println!(
            "{what:54} p50 {:9.3} ms  p90 {:9.3} ms  n={}",
            millis(self.median()),
            millis(self.percentile(90)),
            self.0.len()
        );
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One fdatasync after 4 KiB at the end of a file.
pub(crate) struct Disk(File);

impl Disk {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        File::create(folder.join("floor")).map(Self)
    }

    pub(crate) fn sync(&mut self) -> io::Result<Duration> {
        self.0.write_all(&[7; 4096])?;
        let begin = Instant::now();
        self.0.sync_data()?;
        Ok(begin.elapsed())
    }
}
