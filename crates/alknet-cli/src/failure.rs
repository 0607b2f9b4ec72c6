//! How a command fails: a sentence, a hint with the command that helps, and an
//! exit code.

use crate::{node_access::CallError, table::one_line};
use serde::Serialize;
use serde_json::Value;
use std::{borrow::Cow, fmt, path::Path};

/// What the shell is told.
///
/// 0 fine, 1 the call failed, 2 wrong usage, 3 could not reach, 4 not allowed;
/// `exec` returns the remote status, and 255 for failures of its own; 130 when
/// interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const FINE: Exit = Exit(0);
    /// The call failed.
    pub const FAILED: Exit = Exit(1);
    /// Wrong usage.
    pub const USAGE: Exit = Exit(2);
    /// Could not reach the node or the peer.
    pub const UNREACHABLE: Exit = Exit(3);
    /// Not allowed.
    pub const NOT_ALLOWED: Exit = Exit(4);
    /// Stopped with Ctrl-C: 128 + SIGINT.
    pub const INTERRUPTED: Exit = Exit(130);
    /// Ended by SIGTERM: 128 + SIGTERM.
    pub const TERMINATED: Exit = Exit(143);
    /// A failure of `exec` itself.
    pub const OWN: Exit = Exit(255);
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// A failure as people and scripts are told it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `UPPER_SNAKE`: a code of the protocol, of the operation, or one of ours.
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
    pub(crate) hint: Option<String>,
    /// Nothing is said: whoever read our output has left.
    silent: bool,
    /// The code is part of the sentence.
    names_code: bool,
    /// The code is of the operation, not of the protocol.
    is_domain: bool,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    error: JsonFailure<'a>,
}

#[derive(Serialize)]
struct JsonFailure<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: Cow::Borrowed(code),
            message: message.into(),
            details: None,
            hint: None,
            silent: false,
            names_code: false,
            is_domain: false,
        }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, "USAGE", message)
    }

    /// Something on this machine failed: a file, a terminal.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Exit::FAILED, "LOCAL", message)
    }

    /// A file could not be used.
    pub(crate) fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::local(format!("failed to {what} `{}`: {error}", path.display()))
    }

    /// Ctrl-C, or another signal that ends us.
    pub(crate) fn interrupted(exit: Exit) -> Self {
        Self {
            silent: true,
            ..Self::new(exit, "INTERRUPTED", "interrupted")
        }
    }

    /// Whoever read our output has left, which is no failure of ours.
    pub(crate) fn reader_left() -> Self {
        Self {
            silent: true,
            ..Self::new(Exit::FINE, "READER_LEFT", "the reader left")
        }
    }

    /// A call failed; the hint is added by [`crate::hint::explain`].
    pub(crate) fn call(error: &CallError) -> Self {
        let mut failure = Self::new(exit_of(error), "CALL", error.message.clone());
        failure.code = error.code.clone();
        failure.is_domain = error.protocol_code().is_none();
        failure.details = error.details.as_deref().cloned();
        failure
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn hint_if(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The same failure with the exit code of `exec`, and its code spelt out.
    pub(crate) fn own(mut self) -> Self {
        if !self.silent {
            self.exit = Exit::OWN;
            self.names_code = true;
        }
        self
    }

    /// The same failure with its code spelt out if it is the operation's own:
    /// one of the protocol's is clear from the sentence.
    pub(crate) fn naming_domain_code(mut self) -> Self {
        self.names_code |= self.is_domain;
        self
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// `{"error": {code, message, details, hint}}` on one line.
    pub(crate) fn to_json(&self) -> String {
        let error = JsonFailure {
            code: &self.code,
            message: &self.message,
            details: self.details.as_ref(),
            hint: self.hint.as_deref(),
        };
        serde_json::to_string(&JsonLine { error }).unwrap_or_default()
    }
}

/// The two lines for people, without the colour.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error: ")?;
        if self.names_code {
            write!(f, "{}: ", one_line(&self.code))?;
        }
        f.write_str(&one_line(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// The exit code of a call's error. `LOST` is no 3: the call may have been
/// done, and a script that retries on 3 must not repeat it.
fn exit_of(error: &CallError) -> Exit {
    use crate::node_access::ErrorCode::{
        ApprovalRequired, Forbidden, Unauthenticated, Unavailable,
    };
    match error.protocol_code() {
        Some(Forbidden | Unauthenticated | ApprovalRequired) => Exit::NOT_ALLOWED,
        Some(Unavailable) => Exit::UNREACHABLE,
        _ => Exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_access::ErrorCode;
    use serde_json::json;

    #[test]
    fn every_code_has_its_exit() {
        for code in ErrorCode::ALL {
            let want = match code.as_str() {
                "FORBIDDEN" | "UNAUTHENTICATED" | "APPROVAL_REQUIRED" => 4,
                "UNAVAILABLE" => 3,
                _ => 1,
            };
            assert_eq!(exit_of(&CallError::new(*code, "x")).0, want, "{code}");
        }
        assert_eq!(exit_of(&CallError::domain("NO_ROOM", "x")), Exit::FAILED);
    }

    #[test]
    fn people_read_a_sentence_and_a_hint() {
        let failure = Failure::new(Exit::UNREACHABLE, "NOT_RUNNING", "no node").hint("alknet up");
        assert_eq!(failure.to_string(), "error: no node\nhint: alknet up");
        let own = Failure::call(&CallError::new(ErrorCode::Timeout, "too\nslow")).own();
        assert_eq!(own.to_string(), "error: TIMEOUT: too slow");
        assert_eq!(own.exit.0, 255);
        let domain = Failure::call(&CallError::domain("NO_ROOM", "full")).naming_domain_code();
        assert_eq!(domain.to_string(), "error: NO_ROOM: full");
        let protocol = CallError::new(ErrorCode::Timeout, "too slow");
        let protocol = Failure::call(&protocol).naming_domain_code();
        assert_eq!(protocol.to_string(), "error: too slow");
    }

    #[test]
    fn scripts_read_one_object() {
        let error = CallError::new(ErrorCode::NotFound, "no operation `fs/raed`")
            .with_details(json!({ "suggestions": ["fs/read"] }));
        let failure = Failure::call(&error).hint("did you mean `fs/read`?");
        assert_eq!(
            failure.to_json(),
            r#"{"error":{"code":"NOT_FOUND","message":"no operation `fs/raed`","details":{"suggestions":["fs/read"]},"hint":"did you mean `fs/read`?"}}"#
        );
        assert_eq!(
            Failure::usage("what?").to_json(),
            r#"{"error":{"code":"USAGE","message":"what?"}}"#
        );
    }
}
