//! Standard output is data, standard error is everything said about it.

use crate::{failure::Failure, mask::masked};
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};

/// How this run speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// Data as JSON.
    pub(crate) json: bool,
    /// Nothing on standard error but failures.
    pub(crate) quiet: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Standard error is a terminal: progress makes sense there.
    pub(crate) attended: bool,
    colour: bool,
}

impl Out {
    /// Looks at the two streams and at `NO_COLOR` (<https://no-color.org>).
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let attended = std::io::stderr().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            quiet,
            terminal: std::io::stdout().is_terminal(),
            attended,
            colour: attended && !no_colour && !dumb,
        }
    }

    /// Whether a person sits at both ends and can be asked.
    pub(crate) fn can_ask(self) -> bool {
        !self.json && !self.quiet && self.attended && std::io::stdin().is_terminal()
    }

    /// Text of data; a line break is added if it ends in none.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let end: &[u8] = if text.ends_with('\n') || text.is_empty() {
            b""
        } else {
            b"\n"
        };
        write_all(&[text.as_bytes(), end])
    }

    /// One JSON value on a line.
    pub(crate) fn json_line(self, value: &Value) -> Result<(), Failure> {
        self.text(&value.to_string())
    }

    /// The reply of a call.
    pub(crate) fn reply(self, value: &Value) -> Result<(), Failure> {
        self.text(&reply_text(value, self.json, self.terminal))
    }

    /// One item of a subscription.
    pub(crate) fn item(self, value: &Value) -> Result<(), Failure> {
        self.text(&reply_text(value, self.json, false))
    }

    /// A sentence about the data.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            self.complain("", text);
        }
    }

    /// Something that a person should not miss; said even when quiet.
    pub(crate) fn warn(self, text: &str) {
        self.complain("warning: ", text);
    }

    /// Says a text as it is.
    pub(crate) fn tell(self, text: &str) {
        self.complain("", text.trim_end());
    }

    /// A failure: two lines, or one JSON object.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        if self.json {
            return self.complain("", &failure.to_json());
        }
        let text = failure.to_string();
        if self.colour {
            let text = text.replacen("error:", "\u{1b}[1;31merror:\u{1b}[0m", 1);
            let text = text.replacen("\nhint:", "\n\u{1b}[1;36mhint:\u{1b}[0m", 1);
            return self.complain("", &text);
        }
        self.complain("", &text);
    }

    /// Whether standard error may be coloured.
    pub(crate) fn has_colour(self) -> bool {
        self.colour
    }

    /// How wide a table may be: only a terminal cuts.
    pub(crate) fn width(self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0)
    }

    fn complain(self, before: &str, text: &str) {
        // If standard error is gone there is nobody left to tell.
        let _ = writeln!(std::io::stderr().lock(), "{before}{}", masked(text));
    }
}

fn write_all(parts: &[&[u8]]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = parts
        .iter()
        .try_for_each(|part| stdout.write_all(part))
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::reader_left(),
        _ => Failure::local(format!("failed to write the output: {error}")),
    })
}

/// A string as its text, unless JSON was asked for; anything else as JSON,
/// indented for people.
pub(crate) fn reply_text(value: &Value, json: bool, indent: bool) -> String {
    match value {
        Value::String(text) if !json => text.clone(),
        value if indent && !json => format!("{value:#}"),
        value => value.to_string(),
    }
}

/// `null` and absent as nothing, text as it is, the rest as JSON.
pub(crate) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            items.join(", ")
        }
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(value: &Value, json: bool, indent: bool, want: &str) {
        assert_eq!(reply_text(value, json, indent), want);
    }

    #[test]
    fn a_string_is_its_text_unless_json_is_asked_for() {
        check(&json!("a\"b"), false, true, "a\"b");
        check(&json!("a\"b"), true, true, r#""a\"b""#);
    }

    #[test]
    fn objects_are_indented_for_people_only() {
        check(
            &json!({ "a": [1] }),
            false,
            true,
            "{\n  \"a\": [\n    1\n  ]\n}",
        );
        check(&json!({ "a": [1] }), false, false, r#"{"a":[1]}"#);
        check(&json!({ "a": [1] }), true, true, r#"{"a":[1]}"#);
        check(&json!(null), false, true, "null");
    }

    #[test]
    fn cells_are_plain() {
        assert_eq!(cell(None), "");
        assert_eq!(cell(Some(&json!(null))), "");
        assert_eq!(cell(Some(&json!(["editor", "fs:read"]))), "editor, fs:read");
        assert_eq!(cell(Some(&json!(7))), "7");
    }
}
