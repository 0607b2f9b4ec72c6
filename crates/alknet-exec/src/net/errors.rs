//! What callers are told when the network says no.

use alknet_core::{CallError, ErrorCode, ErrorSpec};
use serde_json::json;
use std::{io, time::Duration};

pub(super) const NAME_NOT_FOUND: &str = "NAME_NOT_FOUND";
pub(super) const CONNECTION_REFUSED: &str = "CONNECTION_REFUSED";
pub(super) const HOST_UNREACHABLE: &str = "HOST_UNREACHABLE";
pub(super) const CONNECT_TIMEOUT: &str = "CONNECT_TIMEOUT";
pub(super) const CONNECTION_RESET: &str = "CONNECTION_RESET";
pub(super) const ADDRESS_IN_USE: &str = "ADDRESS_IN_USE";
pub(super) const ADDRESS_NOT_AVAILABLE: &str = "ADDRESS_NOT_AVAILABLE";

/// When to try again if the node has no descriptor left.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The declaration of one of them.
pub(super) fn spec(code: &'static str) -> ErrorSpec {
    let (description, http_status) = match code {
        NAME_NOT_FOUND => ("The name does not resolve here.", 404),
        CONNECTION_REFUSED => ("Nobody listens at the address.", 502),
        HOST_UNREACHABLE => ("The network does not lead to the address.", 502),
        CONNECT_TIMEOUT => ("The address did not answer in time.", 504),
        CONNECTION_RESET => ("The connection was broken by its other side.", 502),
        ADDRESS_IN_USE => ("Another program listens at the address.", 409),
        _ => ("This machine cannot listen at the address.", 422),
    };
    ErrorSpec {
        http_status,
        ..ErrorSpec::new(code, description)
    }
}

fn domain(code: &'static str, message: String, address: &str) -> CallError {
    CallError::domain(code, message).with_details(json!({ "address": address }))
}

/// No descriptor, no memory: not the caller's doing.
fn exhausted(error: &io::Error) -> Option<CallError> {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error)?;
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    scarce.contains(&errno).then(|| {
        CallError::new(
            ErrorCode::RateLimited,
            format!("the node has no room for another connection: {error}"),
        )
        .with_retry_after(BUSY_RETRY)
    })
}

pub(super) fn not_resolved(address: &str, error: Option<&io::Error>) -> CallError {
    if let Some(exhausted) = error.and_then(exhausted) {
        return exhausted;
    }
    let why = error.map_or("it has no address".to_owned(), ToString::to_string);
    domain(
        NAME_NOT_FOUND,
        format!("the name in `{address}` does not resolve: {why}"),
        address,
    )
}

pub(super) fn too_slow(address: &str) -> CallError {
    domain(
        CONNECT_TIMEOUT,
        format!("`{address}` did not answer in time"),
        address,
    )
}

pub(super) fn not_connected(address: &str, error: &io::Error) -> CallError {
    if let Some(exhausted) = exhausted(error) {
        return exhausted;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => domain(
            CONNECTION_REFUSED,
            format!("nobody listens at `{address}`"),
            address,
        ),
        io::ErrorKind::TimedOut => too_slow(address),
        _ => domain(
            HOST_UNREACHABLE,
            format!("`{address}` was not reached: {error}"),
            address,
        ),
    }
}

pub(super) fn not_listening(address: &str, error: &io::Error) -> CallError {
    if let Some(exhausted) = exhausted(error) {
        return exhausted;
    }
    let code = match error.kind() {
        io::ErrorKind::AddrInUse => ADDRESS_IN_USE,
        _ => ADDRESS_NOT_AVAILABLE,
    };
    domain(
        code,
        format!("cannot listen at `{address}`: {error}"),
        address,
    )
}

pub(super) fn broken(error: &super::CarryError) -> CallError {
    match error {
        super::CarryError::Reset(cause) => {
            CallError::domain(CONNECTION_RESET, format!("{error}: {cause}"))
        }
        super::CarryError::Cut => CallError::new(
            ErrorCode::Cancelled,
            "the channel was cut before its end, so the connection was reset",
        ),
    }
}
