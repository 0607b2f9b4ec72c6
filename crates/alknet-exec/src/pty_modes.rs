//! Modes of terminals by the names of RFC 4254, section 8, and RFC 8160.
//!
//! Not here: `CS7`, `CS8`, `PARENB` and `PARODD`, since a pseudoterminal has
//! eight bits and no parity, whatever one asks for.

use rustix::termios::{InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, tcgetattr};
use std::{collections::BTreeMap, io, os::fd::AsFd};

/// Modes by name: characters by their code (255 for none), switches as 0 or 1,
/// speeds in bits a second.
pub(crate) type ModeMap = BTreeMap<String, u32>;

/// A special character that does nothing, in RFC 4254.
const NO_CHARACTER: u32 = 255;
/// The same here: `_POSIX_VDISABLE`.
pub(crate) const VDISABLE: u8 = if cfg!(target_os = "linux") { 0 } else { 255 };
/// Speeds of the two directions.
const SPEEDS: [&str; 2] = ["TTY_OP_ISPEED", "TTY_OP_OSPEED"];

/// Special characters.
const CHARACTERS: [(&str, SpecialCodeIndex); 14] = [
    ("VINTR", SpecialCodeIndex::VINTR),
    ("VQUIT", SpecialCodeIndex::VQUIT),
    ("VERASE", SpecialCodeIndex::VERASE),
    ("VKILL", SpecialCodeIndex::VKILL),
    ("VEOF", SpecialCodeIndex::VEOF),
    ("VEOL", SpecialCodeIndex::VEOL),
    ("VEOL2", SpecialCodeIndex::VEOL2),
    ("VSTART", SpecialCodeIndex::VSTART),
    ("VSTOP", SpecialCodeIndex::VSTOP),
    ("VSUSP", SpecialCodeIndex::VSUSP),
    ("VREPRINT", SpecialCodeIndex::VREPRINT),
    ("VWERASE", SpecialCodeIndex::VWERASE),
    ("VLNEXT", SpecialCodeIndex::VLNEXT),
    ("VDISCARD", SpecialCodeIndex::VDISCARD),
];

const INPUT: &[(&str, InputModes)] = &[
    ("IGNPAR", InputModes::IGNPAR),
    ("PARMRK", InputModes::PARMRK),
    ("INPCK", InputModes::INPCK),
    ("ISTRIP", InputModes::ISTRIP),
    ("INLCR", InputModes::INLCR),
    ("IGNCR", InputModes::IGNCR),
    ("ICRNL", InputModes::ICRNL),
    #[cfg(target_os = "linux")]
    ("IUCLC", InputModes::IUCLC),
    ("IXON", InputModes::IXON),
    ("IXANY", InputModes::IXANY),
    ("IXOFF", InputModes::IXOFF),
    ("IMAXBEL", InputModes::IMAXBEL),
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    ("IUTF8", InputModes::IUTF8),
];

const LOCAL: &[(&str, LocalModes)] = &[
    ("ISIG", LocalModes::ISIG),
    ("ICANON", LocalModes::ICANON),
    #[cfg(target_os = "linux")]
    ("XCASE", LocalModes::XCASE),
    ("ECHO", LocalModes::ECHO),
    ("ECHOE", LocalModes::ECHOE),
    ("ECHOK", LocalModes::ECHOK),
    ("ECHONL", LocalModes::ECHONL),
    ("NOFLSH", LocalModes::NOFLSH),
    ("TOSTOP", LocalModes::TOSTOP),
    ("IEXTEN", LocalModes::IEXTEN),
    ("ECHOCTL", LocalModes::ECHOCTL),
    ("ECHOKE", LocalModes::ECHOKE),
    ("PENDIN", LocalModes::PENDIN),
];

const OUTPUT: &[(&str, OutputModes)] = &[
    ("OPOST", OutputModes::OPOST),
    #[cfg(target_os = "linux")]
    ("OLCUC", OutputModes::OLCUC),
    ("ONLCR", OutputModes::ONLCR),
    ("OCRNL", OutputModes::OCRNL),
    ("ONOCR", OutputModes::ONOCR),
    ("ONLRET", OutputModes::ONLRET),
];

/// The modes of a terminal of this machine, as `shell/open` takes them.
///
/// # Errors
///
/// If it is no terminal.
pub fn terminal_modes(terminal: impl AsFd) -> io::Result<BTreeMap<String, u32>> {
    let attributes = tcgetattr(terminal)?;
    let mut modes = ModeMap::new();
    for (name, index) in CHARACTERS {
        let code = match attributes.special_codes[index] {
            VDISABLE => NO_CHARACTER,
            code => code.into(),
        };
        modes.insert(name.into(), code);
    }
    let mut switch = |name: &str, is_on: bool| modes.insert(name.into(), is_on.into());
    for (name, mode) in INPUT {
        switch(name, attributes.input_modes.contains(*mode));
    }
    for (name, mode) in LOCAL {
        switch(name, attributes.local_modes.contains(*mode));
    }
    for (name, mode) in OUTPUT {
        switch(name, attributes.output_modes.contains(*mode));
    }
    let [input, output] = SPEEDS;
    modes.insert(input.into(), attributes.input_speed());
    modes.insert(output.into(), attributes.output_speed());
    Ok(modes)
}

/// Sets what is known, and passes over the rest, as RFC 4254 asks for.
pub(crate) fn apply(modes: &ModeMap, attributes: &mut Termios) {
    for (name, value) in modes {
        if let Some(index) = find(&CHARACTERS, name) {
            // Codes of more than eight bits are none.
            let code = u8::try_from(*value).ok();
            let code = code.filter(|code| u32::from(*code) != NO_CHARACTER);
            attributes.special_codes[index] = code.unwrap_or(VDISABLE);
        } else if let Some(mode) = find(INPUT, name) {
            attributes.input_modes.set(mode, *value != 0);
        } else if let Some(mode) = find(LOCAL, name) {
            attributes.local_modes.set(mode, *value != 0);
        } else if let Some(mode) = find(OUTPUT, name) {
            attributes.output_modes.set(mode, *value != 0);
        } else if SPEEDS.contains(&name.as_str()) && *value != 0 {
            // Nothing waits for a wire: a speed that the system does not know
            // is as good as any. Zero would hang up.
            let _ = match name.as_str() {
                "TTY_OP_ISPEED" => attributes.set_input_speed(*value),
                _ => attributes.set_output_speed(*value),
            };
        }
    }
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pty::NewPty;
    use rustix::termios::Winsize;

    fn modes(pairs: &[(&str, u32)]) -> ModeMap {
        let pairs = pairs.iter().map(|(name, value)| ((*name).into(), *value));
        pairs.collect()
    }

    fn with(given: &ModeMap) -> ModeMap {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = NewPty::open(size, given, None).unwrap();
        terminal_modes(&pty.slave).unwrap()
    }

    #[test]
    fn a_terminal_has_the_modes_that_it_was_given() {
        let before = with(&ModeMap::new());
        assert_eq!(
            (before["ECHO"], before["ICANON"], before["VINTR"]),
            (1, 1, 3)
        );
        let changed = modes(&[
            ("ECHO", 0),
            ("ICANON", 0),
            ("IXON", 0),
            ("ONLCR", 0),
            ("VINTR", 11),
            ("VSUSP", 255),
            // Where a terminal has but one speed, the two are one.
            ("TTY_OP_ISPEED", 9600),
            ("TTY_OP_OSPEED", 9600),
        ]);
        let after = with(&changed);
        for (name, value) in &before {
            assert_eq!(after[name], *changed.get(name).unwrap_or(value), "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let before = with(&ModeMap::new());
        let odd = modes(&[
            ("VSTATUS", 20),
            ("CS8", 0),
            ("echo", 0),
            ("TTY_OP_ISPEED", 0),
        ]);
        assert_eq!(with(&odd), before);
        assert_eq!(with(&modes(&[("VINTR", 3 + 256)]))["VINTR"], NO_CHARACTER);
    }

    #[test]
    fn the_modes_of_one_terminal_make_another_like_it() {
        let given = modes(&[("ECHO", 0), ("VERASE", 8), ("ISTRIP", 1)]);
        let copied = with(&given);
        assert_eq!(with(&copied), copied);
    }
}
