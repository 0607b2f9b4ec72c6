//! What goes wrong while files are copied: with one of them, with all that
//! follow, or with the connection.

use crate::{
    failure::Failure,
    hint::{Place, explain},
    node_access::{CallError, ErrorCode, FileError, PathError, Route, root::RootError},
};

/// Why one entry was not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }

    pub(super) fn of_root(error: &RootError) -> Self {
        let host = error.errno().map(|errno| {
            let said = std::io::Error::from_raw_os_error(errno);
            FileError::host(&"", said)
                .code()
                .map_or("IO_ERROR", |code| code.as_str())
        });
        let code = host.unwrap_or(match error {
            RootError::LeadsOut => "LEADS_OUTSIDE",
            RootError::NotAFile => "NOT_A_FILE",
            RootError::TooManyLinks => "TOO_MANY_LINKS",
            RootError::NameReserved | RootError::NameInvalid => "NAME_REFUSED",
            RootError::Changed => "FILE_CHANGED",
            RootError::Busy => "FILE_BUSY",
            _ => "BAD_ARGUMENT",
        });
        Self::new(code, error.to_string())
    }

    pub(super) fn of_path(error: &PathError) -> Self {
        Self::new("NAME_REFUSED", error.to_string())
    }
}

/// Why something ended.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This entry alone.
    Entry(Problem),
    /// The connection, or a peer that asks to wait: another attempt goes on.
    Lost(CallError),
    /// Everything that follows would fail too.
    Stop(Box<Failure>),
    /// The next stage is gone, and says why itself.
    Quiet,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Entry(problem)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Stop(Box::new(failure))
    }
}

impl From<RootError> for Trouble {
    /// A full disk is full for what follows, too.
    fn from(error: RootError) -> Self {
        let problem = Problem::of_root(&error);
        match is_for_all(&problem.code) {
            true => {
                let hint = match &*problem.code {
                    "NO_SPACE" => "once there is room at the destination, the same command goes on",
                    _ => "what was copied so far is not copied again",
                };
                Failure::call(&CallError::domain(problem.code, problem.message))
                    .naming_domain_code()
                    .hint(hint)
                    .into()
            }
            false => Self::Entry(problem),
        }
    }
}

/// Whether other files would meet the same.
fn is_for_all(code: &str) -> bool {
    matches!(
        code,
        "NO_SPACE" | "QUOTA_EXCEEDED" | "READ_ONLY" | "NO_SUCH_BUCKET"
    )
}

/// Whether another attempt makes sense: nothing was wrong with what was asked.
pub(super) fn is_passing(error: &CallError) -> bool {
    use ErrorCode::{Cancelled, Lost, RateLimited, Timeout, Unavailable};
    // A node that stops cancels; so does a right that was lost, which the next
    // attempt is told.
    let is_passing = matches!(
        error.protocol_code(),
        Some(Unavailable | Lost | RateLimited | Timeout | Cancelled)
    );
    is_passing || error.retryable
}

/// Of a call about one entry.
pub(super) fn of_entry(error: CallError, home: &str, route: &Route) -> Trouble {
    match error.protocol_code() {
        _ if is_passing(&error) => Trouble::Lost(error),
        None if is_for_all(&error.code) => of_all(error, home, route),
        Some(ErrorCode::Unauthenticated | ErrorCode::NotFound) => of_all(error, home, route),
        _ => Problem::new(&error.code, error.message).into(),
    }
}

/// Of a call for many entries.
pub(super) fn of_all(error: CallError, home: &str, route: &Route) -> Trouble {
    if is_passing(&error) {
        return Trouble::Lost(error);
    }
    let place = Place {
        home: home.to_owned(),
        route: route.clone(),
        operation: String::new(),
    };
    explain(&error, &place).naming_domain_code().into()
}
