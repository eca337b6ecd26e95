//! The user's terminal while a task has one of its own: raw, so that every key goes to the task,
//! and as it was when the program ends, however it ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, OptionalActions, Termios};

/// The terminal to be restored, for the panic hook, which no `Drop` precedes where panics abort.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// A terminal in raw mode; dropping it restores the terminal.
///
/// Signals need no care here: [`crate::signals`] collects them while this value lives.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal at `fd` raw.
    ///
    /// # Errors
    /// ENOTTY if it is no terminal.
    pub(crate) fn enter(fd: BorrowedFd<'_>) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        let before = termios::tcgetattr(fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        let own = fd.try_clone_to_owned()?;
        // Saved first: a panic between the two lines must find it.
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((own, before));
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                report(info);
            }));
        });
        termios::tcsetattr(fd, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back. Idempotent. DRAIN: what the task printed last is shown in its own mode.
fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((fd, before)) = saved {
        // A terminal that has gone away (SIGHUP) has nothing to restore.
        let _ = termios::tcsetattr(fd.as_fd(), OptionalActions::Drain, &before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    /// The claim needs a terminal: a pseudo terminal is one.
    #[test]
    fn leaves_the_terminal_as_it_was() {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        let before = termios::tcgetattr(&terminal).unwrap();

        let raw = RawTerminal::enter(terminal.as_fd()).unwrap();
        let during = termios::tcgetattr(&terminal).unwrap();
        assert!(!during.local_modes.contains(termios::LocalModes::ICANON));

        drop(raw);
        let after = termios::tcgetattr(&terminal).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
        assert_eq!(after.input_modes, before.input_modes);
        assert_eq!(after.output_modes, before.output_modes);
    }

    #[test]
    fn refuses_what_is_no_terminal() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = RawTerminal::enter(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
