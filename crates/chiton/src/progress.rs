//! Progress on a terminal, for what takes longer than a second.
//!
//! On standard error, and only if that is a terminal: in a log, a line that is rewritten is noise. A display that is
//! not due yet draws nothing, so that a quick command leaves no trace.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::one_line;

const DUE: Duration = Duration::from_secs(1);

/// One thing in progress. Gone from the screen when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    begin: Instant,
    bar: ProgressBar,
    wanted: bool,
}

impl Progress {
    /// Of bytes, whose total may be known.
    pub(crate) fn bytes(total: Option<u64>) -> Self {
        let template = if total.is_some() {
            "{bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
        } else {
            "{bytes}  {bytes_per_sec}"
        };
        Self::new(total, template)
    }

    /// Of work that is told step by step.
    pub(crate) fn steps() -> Self {
        Self::new(None, "{spinner} {msg}  {elapsed}")
    }

    fn new(total: Option<u64>, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { begin: Instant::now(), bar, wanted: std::io::stderr().is_terminal() }
    }

    /// So many more bytes are done.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.due();
        self.bar.inc(bytes as u64);
    }

    /// What is happening now.
    pub(crate) fn say(&mut self, text: &str) {
        self.bar.set_message(one_line(text));
        self.due();
    }

    /// Waits for `future`, and shows the display when it is due.
    pub(crate) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        if !self.wanted {
            return future.await;
        }
        let left = DUE.saturating_sub(self.begin.elapsed());
        tokio::pin!(future);
        if let Ok(value) = tokio::time::timeout(left, &mut future).await {
            return value;
        }
        self.due();
        future.await
    }

    fn due(&mut self) {
        if self.wanted && self.begin.elapsed() >= DUE {
            self.wanted = false;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
