//! What is made of a command's standard output.

use alknet_core::{CallError, CallId, ErrorCode};
use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// `INTERNAL`: the caller learns the call's id, the log what was printed.
pub(crate) fn broken(call: CallId, operation: &str, what: &str) -> CallError {
    CallError::internal(call, &format!("`{operation}` printed {what}"))
}

/// `TOO_LARGE` for what it printed.
pub(crate) fn too_large(operation: &str, what: &str, bytes_max: usize) -> CallError {
    CallError::new(
        ErrorCode::TooLarge,
        format!("`{operation}` printed {what} of more than {bytes_max} bytes"),
    )
}

/// Reads output as text.
pub(crate) fn text(bytes: Vec<u8>) -> Result<Value, String> {
    String::from_utf8(bytes)
        .map(Value::String)
        .map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("bytes that are not UTF-8, at offset {at}")
        })
}

/// Reads output as one JSON value.
pub(crate) fn json_value(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("what is not JSON: {error}"))
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: BytesMut,
    /// Bytes of `rest` that are known to hold no line end.
    seen: usize,
}

impl Lines {
    /// Takes more of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole line, without its line feed.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let found = self.rest[self.seen..]
            .iter()
            .position(|byte| *byte == b'\n');
        match found {
            Some(at) => {
                let mut line = self.rest.split_to(self.seen + at + 1);
                line.truncate(line.len() - 1);
                self.seen = 0;
                Some(line.freeze())
            }
            None => {
                self.seen = self.rest.len();
                None
            }
        }
    }

    /// Bytes of the line that has not ended yet.
    pub(crate) fn waiting(&self) -> usize {
        self.rest.len()
    }

    /// The last line, if the stream did not end with a line feed.
    pub(crate) fn last(&mut self) -> Option<Bytes> {
        self.seen = 0;
        (!self.rest.is_empty()).then(|| self.rest.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pushes: &[&str], want: &[&str]) {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for bytes in pushes {
            lines.push(bytes.as_bytes());
            got.extend(std::iter::from_fn(|| lines.next()));
        }
        got.extend(lines.last());
        assert_eq!(got, want);
        assert_eq!(lines.last(), None);
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_were() {
        check(&["a\nb\n"], &["a", "b"]);
        check(&["a", "b", "\n", "c"], &["ab", "c"]);
        check(&["\n\n", "x\r\n"], &["", "", "x\r"]);
        check(&[], &[]);
    }

    #[test]
    fn the_offset_of_what_is_not_text_is_told() {
        assert_eq!(
            text(vec![b'a', 0xff]),
            Err("bytes that are not UTF-8, at offset 1".into())
        );
        assert_eq!(text(b"a\n".to_vec()), Ok("a\n".into()));
    }

    #[test]
    fn the_place_of_what_is_not_json_is_told() {
        assert_eq!(
            json_value(b"{oops"),
            Err("what is not JSON: key must be a string at line 1 column 2".into())
        );
        assert_eq!(
            json_value(b"1 2"),
            Err("what is not JSON: trailing characters at line 1 column 3".into())
        );
        assert_eq!(json_value(b" [1]\n"), Ok(serde_json::json!([1])));
    }

    #[test]
    fn a_caller_learns_the_call_and_nothing_of_the_output() {
        let call = CallId::new();
        let error = broken(call, "a/b", "what is not JSON");
        assert!(error.is(ErrorCode::Internal));
        assert_eq!(error.message, format!("internal error in call {call}"));
    }
}
