//! The last bytes of a stream, for error details.

use std::collections::VecDeque;

/// Bytes of standard error that go into an error's details.
pub(crate) const STDERR_TAIL_BYTES: usize = 4096;

/// Longest last line quoted in an error's message, in characters.
const LINE_CHARS_MAX: usize = 200;

/// Keeps the last [`STDERR_TAIL_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<u8>);

impl Tail {
    /// Takes more; what is too old goes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(STDERR_TAIL_BYTES);
        self.0.drain(..over);
        self.0.extend(bytes);
    }

    /// What was kept, as text: a character cut at the front goes whole, other
    /// bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let cut = bytes
            .iter()
            .take(3)
            .take_while(|byte| **byte & 0xC0 == 0x80)
            .count();
        String::from_utf8_lossy(&bytes[cut..]).into_owned()
    }

    /// The last line that says something, without control characters.
    pub(crate) fn last_line(&self) -> Option<String> {
        let text = self.text();
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        let line = line.trim().chars().filter(|c| !c.is_control());
        Some(line.take(LINE_CHARS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pushes: &[&[u8]], want: &str) {
        let mut tail = Tail::default();
        pushes.iter().for_each(|bytes| tail.push(bytes));
        assert_eq!(tail.text(), want);
    }

    #[test]
    fn the_last_bytes_stay() {
        check(&[b"ab", b"c"], "abc");
        check(&[&[b'a'; 4096], b"b"], &("a".repeat(4095) + "b"));
        check(&[&[b'a'; 10], &[b'b'; 10_000]], &"b".repeat(4096));
    }

    #[test]
    fn a_character_is_not_cut_in_half() {
        let text = "é".repeat(2048) + "x";
        check(&[text.as_bytes()], &("é".repeat(2047) + "x"));
    }

    #[test]
    fn the_last_line_is_plain() {
        let mut tail = Tail::default();
        tail.push(b"first\n\x1b[31mred\x07\n  \n");
        assert_eq!(tail.last_line().as_deref(), Some("[31mred"));
        assert_eq!(Tail::default().last_line(), None);
    }
}
