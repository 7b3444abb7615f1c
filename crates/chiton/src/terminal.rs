//! The terminal in raw mode, given back on every way out but SIGKILL, against which nothing helps (`stty sane` does).

use std::io::IsTerminal as _;
use std::sync::{Mutex, Once};

use chiton_model::Error;
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was before; kept where a panic and a signal find it, too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

static HOOK: Once = Once::new();

/// Raw mode as long as this lives.
pub(crate) struct RawMode(());

impl RawMode {
    /// Sets the terminal of standard input to raw mode.
    pub(crate) fn enter() -> Result<Self, Error> {
        let stdin = std::io::stdin();
        let refuse = |why: String| Error::invalid("tty", why).cure("leave -t out, or run it from a terminal");
        if !stdin.is_terminal() {
            return Err(refuse("standard input is not a terminal".to_owned()));
        }
        let before = tcgetattr(&stdin).map_err(|error| refuse(format!("the terminal cannot be read: {error}")))?;
        *BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before.clone());
        HOOK.call_once(|| {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                earlier(panic);
            }));
        });
        make_raw(before).map_err(|error| refuse(format!("the terminal cannot be set: {error}")))?;
        Ok(Self(()))
    }
}

/// What was typed already stays to be read: it is meant for the command.
fn make_raw(mut settings: Termios) -> rustix::io::Result<()> {
    settings.make_raw();
    tcsetattr(std::io::stdin(), OptionalActions::Drain, &settings)
}

fn before() -> Option<Termios> {
    BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

/// Stops this process as SIGTSTP asks, the terminal given back meanwhile. Returns when it goes on.
pub(crate) fn suspend() {
    if let Some(before) = before() {
        // If this fails nothing else would help either.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
    // Not SIGTSTP again, which is caught.
    let _ = kill_process(getpid(), Signal::STOP);
    resume();
}

/// Takes the terminal again: a shell has put it to its own use while this process was stopped. In the background this waits
/// until the shell brings it to the front, by the kernel's own rule (SIGTTOU).
pub(crate) fn resume() {
    if let Some(before) = before() {
        let _ = make_raw(before);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. Does nothing the second time.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(before) = before {
        // If this fails nothing else would help either.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}

/// Rows and columns of the terminal; the usual ones if it does not know (serial lines, some harnesses).
pub(crate) fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout())
        .or_else(|_| tcgetwinsize(std::io::stdin()))
        .map(|size| (size.ws_row, size.ws_col))
        .ok()
        .filter(|(rows, columns)| *rows > 0 && *columns > 0)
        .unwrap_or((24, 80))
}

#[cfg(test)]
mod tests;
