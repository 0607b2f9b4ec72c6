//! Signals by the names of POSIX.1-2024 `<signal.h>`, without `SIG`.

use rustix::process::Signal;
use std::borrow::Cow;

/// What a caller may send.
const SENDABLE: [(&str, Signal); 11] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
];

/// What a program may die of beside those.
const OTHERS: [(&str, Signal); 17] = [
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("SEGV", Signal::SEGV),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("IO", Signal::IO),
    ("SYS", Signal::SYS),
];

/// The signal of that name, if callers may send it.
pub(crate) fn sendable(name: &str) -> Option<Signal> {
    SENDABLE
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| *signal)
}

/// The name of a signal; its number, if it has none.
pub(crate) fn name(number: i32) -> Cow<'static, str> {
    SENDABLE
        .iter()
        .chain(&OTHERS)
        .find(|(_, signal)| signal.as_raw() == number)
        .map_or_else(
            || Cow::Owned(number.to_string()),
            |(name, _)| Cow::Borrowed(*name),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_can_be_sent_is_named_the_same_when_it_kills() {
        for (text, signal) in SENDABLE {
            assert_eq!(name(signal.as_raw()), text);
            assert_eq!(sendable(text), Some(signal));
        }
    }

    #[test]
    fn others_cannot_be_sent() {
        for text in ["SEGV", "SIGINT", "int", "9", "", "RTMIN"] {
            assert_eq!(sendable(text), None, "{text}");
        }
        assert_eq!(name(Signal::SEGV.as_raw()), "SEGV");
        assert_eq!(name(40), "40");
    }
}
