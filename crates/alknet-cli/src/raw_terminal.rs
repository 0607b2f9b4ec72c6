//! The terminal in which a person sits, while its keys belong to a program
//! elsewhere.

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};
use std::{io, os::fd::AsFd};

/// A terminal in raw mode: every key is a byte, Ctrl-C too. Dropping it, be it
/// by a panic, puts back what was set before.
#[derive(Debug)]
pub(crate) struct RawTerminal<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> RawTerminal<T> {
    /// Enters raw mode.
    pub(crate) fn enter(terminal: T) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let raw = Self { terminal, before };
        raw.renew()?;
        Ok(raw)
    }

    /// Enters raw mode once more: whoever stopped us may have left it.
    pub(crate) fn renew(&self) -> io::Result<()> {
        let mut modes = self.before.clone();
        modes.make_raw();
        // At once: waiting for output could take for ever.
        Ok(tcsetattr(&self.terminal, OptionalActions::Now, &modes)?)
    }
}

impl<T: AsFd> Drop for RawTerminal<T> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The size of the terminal that shows the output, or of the one with the
/// keyboard; nothing if neither is one, or it does not know.
pub(crate) fn size() -> Option<Winsize> {
    let known = |size: &Winsize| size.ws_row > 0 && size.ws_col > 0;
    let shown = tcgetwinsize(io::stdout()).ok().filter(known);
    shown.or_else(|| tcgetwinsize(io::stdin()).ok().filter(known))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, unlockpt},
        termios::LocalModes,
    };

    #[test]
    fn a_terminal_is_as_it_was_after_everything_a_panic_too() {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let modes = || tcgetattr(&terminal).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        let raw = RawTerminal::enter(&terminal).unwrap();
        assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        drop(raw);
        assert_eq!(modes(), before);
        let panicking = std::panic::catch_unwind(|| {
            let _raw = RawTerminal::enter(&terminal).unwrap();
            assert_eq!(modes(), before, "raw");
        });
        assert!(panicking.is_err());
        assert_eq!(modes(), before);
    }
}
