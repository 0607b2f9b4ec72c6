//! What a person types to us instead of to the program elsewhere: `~` as the
//! first key of a line, and another, as in OpenSSH.

/// What is to be done with what was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Belongs to the program.
    Send(Vec<u8>),
    /// `~.`: leave.
    Leave,
    /// `~?`: tell what there is.
    Help,
}

/// What `~?` tells.
pub(crate) const HELP: &str = "\
~.  leaves, which ends the shell there
~~  types one ~
~?  tells this
A ~ counts as the first key of a line only.";

/// Finds escapes in what is typed, however it is cut into pieces.
#[derive(Debug)]
pub(crate) struct Escapes {
    is_on: bool,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    /// Behind a `~`, which was not sent yet.
    Escape,
    InLine,
}

impl Escapes {
    /// None are found if they are off.
    pub(crate) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            at: At::LineStart,
        }
    }

    /// Sorts what was typed. Nothing comes behind [`Key::Leave`].
    pub(crate) fn sort(&mut self, typed: &[u8]) -> Vec<Key> {
        if !self.is_on {
            return vec![Key::Send(typed.to_vec())];
        }
        let (mut keys, mut send) = (Vec::new(), Vec::with_capacity(typed.len() + 1));
        for byte in typed {
            let escaped = match (self.at, byte) {
                (At::LineStart, b'~') => {
                    self.at = At::Escape;
                    continue;
                }
                (At::Escape, b'.') => Some(Key::Leave),
                (At::Escape, b'?') => Some(Key::Help),
                (At::Escape, b'~') => {
                    self.at = At::InLine;
                    send.push(b'~');
                    continue;
                }
                (At::Escape, _) => {
                    send.push(b'~');
                    None
                }
                _ => None,
            };
            let Some(key) = escaped else {
                send.push(*byte);
                self.at = match byte {
                    b'\r' | b'\n' => At::LineStart,
                    _ => At::InLine,
                };
                continue;
            };
            if !send.is_empty() {
                keys.push(Key::Send(std::mem::take(&mut send)));
            }
            self.at = At::LineStart;
            let leaves = key == Key::Leave;
            keys.push(key);
            if leaves {
                return keys;
            }
        }
        if !send.is_empty() {
            keys.push(Key::Send(send));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(typed: &str, want: &[Key]) {
        let sorted = |pieces: &[&[u8]]| {
            let mut escapes = Escapes::new(true);
            let mut keys: Vec<Key> = Vec::new();
            for piece in pieces {
                for key in escapes.sort(piece) {
                    match (keys.last_mut(), key) {
                        (Some(Key::Send(sent)), Key::Send(more)) => sent.extend(more),
                        (Some(Key::Leave), _) => {}
                        (_, key) => keys.push(key),
                    }
                }
            }
            keys
        };
        assert_eq!(sorted(&[typed.as_bytes()]), want, "{typed:?}");
        let single: Vec<&[u8]> = typed.as_bytes().chunks(1).collect();
        assert_eq!(sorted(&single), want, "{typed:?} key by key");
    }

    fn send(text: &str) -> Key {
        Key::Send(text.into())
    }

    #[test]
    fn an_escape_is_the_first_key_of_a_line() {
        check("~.", &[Key::Leave]);
        check("ls\r~.more", &[send("ls\r"), Key::Leave]);
        check("ls\n~?x", &[send("ls\n"), Key::Help, send("x")]);
        check("~?~.", &[Key::Help, Key::Leave]);
        check("a~.", &[send("a~.")]);
        check("ls ~/x\r", &[send("ls ~/x\r")]);
    }

    #[test]
    fn what_is_none_is_sent_whole() {
        check("~~.", &[send("~.")]);
        check("~/bin/x\r", &[send("~/bin/x\r")]);
        check("~\r~.", &[send("~\r"), Key::Leave]);
        check("~a~.", &[send("~a~.")]);
        check("", &[]);
    }

    #[test]
    fn a_tilde_waits_for_the_next_key() {
        let mut escapes = Escapes::new(true);
        assert_eq!(escapes.sort(b"~"), []);
        assert_eq!(escapes.sort(b"x"), [send("~x")]);
    }

    #[test]
    fn nothing_is_an_escape_when_they_are_off() {
        let mut escapes = Escapes::new(false);
        assert_eq!(escapes.sort(b"~.\r~?"), [send("~.\r~?")]);
    }
}
