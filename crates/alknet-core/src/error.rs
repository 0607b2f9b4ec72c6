//! The error that crosses surfaces: a stable code and a sentence.

use crate::{call::CallId, near::brief, storage::StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{borrow::Cow, fmt, time::Duration};

/// Whether a code belongs to the closed set of the protocol or was declared
/// by an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// One of [`ErrorCode`].
    Protocol,
    /// Declared by the operation, `UPPER_SNAKE`.
    Domain,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The closed set of protocol errors, stable on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The code as it appears on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// The code of that name, if it is a protocol code.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(ErrorCode::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// No such operation within the caller's reach.
    NotFound = "NOT_FOUND",
    /// Nobody, or a credential that does not resolve.
    Unauthenticated = "UNAUTHENTICATED",
    /// Known, but a scope or resource is missing.
    Forbidden = "FORBIDDEN",
    /// A person must say yes first.
    ApprovalRequired = "APPROVAL_REQUIRED",
    /// The input is not JSON or breaks the schema.
    InvalidInput = "INVALID_INPUT",
    /// Called as another kind than it is.
    InvalidOperationType = "INVALID_OPERATION_TYPE",
    /// The state, or an earlier call with the same key, contradicts this one.
    Conflict = "CONFLICT",
    /// A cursor or version that is no longer kept.
    Gone = "GONE",
    /// More bytes than allowed.
    TooLarge = "TOO_LARGE",
    /// More calls than allowed.
    RateLimited = "RATE_LIMITED",
    /// The budget of the call ran out.
    Timeout = "TIMEOUT",
    /// The caller, or its lost right, ended the call.
    Cancelled = "CANCELLED",
    /// Not reached; safe to retry.
    Unavailable = "UNAVAILABLE",
    /// The connection went away before the outcome was known.
    Lost = "LOST",
    /// A fault on the callee's side; the cause is in its log.
    Internal = "INTERNAL",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One way in which an input breaks its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the offending value.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

/// How a call failed, as its caller is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallError {
    /// Protocol or domain.
    pub class: ErrorClass,
    /// One of [`ErrorCode`], or a declared domain code.
    pub code: Cow<'static, str>,
    /// One sentence for the caller.
    pub message: String,
    /// Machine-readable particulars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Value>>,
    /// Whether repeating the same call may succeed without harm.
    #[serde(default)]
    pub retryable: bool,
    /// Milliseconds to wait before a retry.
    #[serde(
        default,
        rename = "retry_after_ms",
        skip_serializing_if = "Option::is_none",
        with = "millis"
    )]
    pub retry_after: Option<Duration>,
}

mod millis {
    use std::time::Duration;
    pub(super) fn serialize<S: serde::Serializer>(
        value: &Option<Duration>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        serde::Serialize::serialize(
            &value.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            s,
        )
    }
    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(<Option<u64> as serde::Deserialize>::deserialize(d)?.map(Duration::from_millis))
    }
}

impl CallError {
    /// A protocol error.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retryable = matches!(code, ErrorCode::Unavailable | ErrorCode::RateLimited);
        Self {
            class: ErrorClass::Protocol,
            code: Cow::Borrowed(code.as_str()),
            message: message.into(),
            details: None,
            retryable,
            retry_after: None,
        }
    }

    /// A domain error; `code` must be declared by the operation.
    #[must_use]
    pub fn domain(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::Domain,
            code: code.into(),
            message: message.into(),
            details: None,
            retryable: false,
            retry_after: None,
        }
    }

    /// Adds particulars.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Says when a retry makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(wait);
        self
    }

    /// Says whether the same call may be repeated.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// `NOT_FOUND` for an operation.
    #[must_use]
    pub fn not_found(name: &str) -> Self {
        // One without a slash is none, and may be anything.
        let name = match name.contains('/') {
            true => Cow::Borrowed(name),
            false => brief(name),
        };
        Self::new(ErrorCode::NotFound, format!("no operation `{name}`"))
            .with_details(json!({ "operation": name }))
    }

    /// `INVALID_INPUT` with the violations as details.
    #[must_use]
    pub fn invalid_input(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [] => "invalid input".to_owned(),
            [one] if one.pointer.is_empty() => format!("invalid input: {}", one.message),
            [one] => format!("invalid input: `{}`: {}", one.pointer, one.message),
            [one, rest @ ..] => format!(
                "invalid input: `{}`: {} (and {} more)",
                one.pointer,
                one.message,
                rest.len()
            ),
        };
        Self::new(ErrorCode::InvalidInput, message).with_details(json!(violations))
    }

    /// `INVALID_INPUT` for one field.
    #[must_use]
    pub fn invalid_field(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid_input(vec![Violation {
            pointer: pointer.into(),
            message: message.into(),
        }])
    }

    /// Hides `cause` from the peer and logs it for the operator.
    #[must_use]
    pub fn internal(call: CallId, cause: &dyn fmt::Display) -> Self {
        tracing::error!(%call, %cause, "operation failed");
        Self::internal_unlogged(call)
    }

    /// What a caller is told when the node could not store or read what it
    /// had to: `UNAVAILABLE` where the disk is full or fails, which whoever
    /// writes to it tells in the log, and [`CallError::internal`] otherwise.
    #[must_use]
    pub fn storage(call: CallId, error: &StoreError) -> Self {
        let message = match error {
            StoreError::NoSpace(_) => "the node's disk is full: nothing was changed",
            StoreError::Disk(_) => "the node's disk fails: nothing was changed",
            StoreError::NotReadBack(_) => {
                let message = "the change was made and is kept, but the node cannot read it yet: \
                     until it can, it is not in force";
                return Self::new(ErrorCode::Unavailable, message).with_retryable(false);
            }
            other => return Self::internal(call, other),
        };
        Self::new(ErrorCode::Unavailable, message)
    }

    /// [`CallError::internal`] for a cause that is in the log already.
    pub(crate) fn internal_unlogged(call: CallId) -> Self {
        Self::new(
            ErrorCode::Internal,
            format!("internal error in call {call}"),
        )
        .with_details(json!({ "call_id": call.to_string() }))
    }

    /// Whether it is what [`CallError::internal`] makes.
    pub(crate) fn names_call(&self) -> bool {
        let details = self.details.as_deref().and_then(Value::as_object);
        let id = details.filter(|details| details.len() == 1);
        id.and_then(|details| details.get("call_id")?.as_str())
            .is_some_and(|id| self.message == format!("internal error in call {id}"))
    }

    /// The protocol code; an unknown one counts as [`ErrorCode::Internal`].
    /// `None` for domain errors.
    #[must_use]
    pub fn protocol_code(&self) -> Option<ErrorCode> {
        (self.class == ErrorClass::Protocol)
            .then(|| ErrorCode::parse(&self.code).unwrap_or(ErrorCode::Internal))
    }

    /// Whether it is this protocol error.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.protocol_code() == Some(code)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for CallError {}

/// `UPPER_SNAKE`, as domain codes must be.
pub(crate) fn is_domain_code(code: &str) -> bool {
    code.len() <= 64
        && code.as_bytes().first().is_some_and(u8::is_ascii_uppercase)
        && code
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && ErrorCode::parse(code).is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn an_unknown_protocol_code_is_kept_and_counts_as_internal() {
        let text = r#"{"class":"protocol","code":"FROM_THE_FUTURE","message":"x"}"#;
        let error: CallError = serde_json::from_str(text).unwrap();
        assert_eq!(error.protocol_code(), Some(ErrorCode::Internal));
        assert_eq!(error.code, "FROM_THE_FUTURE");
    }

    #[test]
    fn the_json_form_is_stable() {
        let error = CallError::new(ErrorCode::RateLimited, "slow down")
            .with_retry_after(Duration::from_millis(1500));
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"class":"protocol","code":"RATE_LIMITED","message":"slow down","retryable":true,"retry_after_ms":1500}"#
        );
    }
}
