//! Access decided in the middle of what blocks.
//!
//! Where a path leads is known only when it was walked, on a thread that has no
//! permit. What is walked there asks for what it needs before it acts; if that
//! was not checked yet, it is given up, checked, and begun anew. So what is
//! acted on is always what was checked, however names are swapped meanwhile,
//! and a path without links takes one turn.

use super::jobs::Jobs;
use crate::root::{Follow, Root, RootError, Walked};
use alknet_core::{
    CallError, ErrorCode, Permit,
    files::{FileError, FileErrorCode, FilePath},
};
use std::sync::Arc;

/// Times that what was walked leads elsewhere than before.
const ROUNDS_MAX: usize = 16;

/// What a caller must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    action: &'static str,
    path: FilePath,
    /// Of everything below, too.
    is_tree: bool,
    /// The path that the caller named, if it leads to this one.
    named: Option<FilePath>,
}

impl Need {
    pub(crate) fn file(action: &'static str, path: &FilePath) -> Self {
        Self {
            action,
            path: path.clone(),
            is_tree: false,
            named: None,
        }
    }

    pub(crate) fn tree(action: &'static str, path: &FilePath) -> Self {
        Self {
            is_tree: true,
            ..Self::file(action, path)
        }
    }

    fn behind(mut self, named: &FilePath) -> Self {
        self.named = (self.path != *named).then(|| named.clone());
        self
    }

    /// Whether who has this has `other`.
    fn covers(&self, other: &Self) -> bool {
        let same = self.path == other.path && (self.is_tree || !other.is_tree);
        self.action == other.action && (same || (self.is_tree && other.path.is_within(&self.path)))
    }

    /// # Errors
    ///
    /// What the door says. Of a path that the caller did not name, it does not
    /// tell where that is: links lead there that the caller may not read.
    pub(crate) fn check(&self, permit: &Permit) -> Result<(), FileError> {
        let checked = match self.is_tree {
            true => permit.check_tree(self.action, &self.path),
            false => permit.check_file(self.action, &self.path),
        };
        let Err(refused) = checked else { return Ok(()) };
        let Some(named) = self
            .named
            .as_ref()
            .filter(|_| refused.is(ErrorCode::Forbidden))
        else {
            return Err(refused.into());
        };
        let caller = permit.caller()?;
        let message = format!(
            "`{}` may not {} what `{named}` leads to",
            caller.id(),
            self.action
        );
        Err(CallError::new(ErrorCode::Forbidden, message).into())
    }
}

/// Why a walk was given up.
#[derive(Debug)]
pub(crate) enum Halt {
    /// This is to be checked first.
    Ask(Box<Need>),
    /// It cannot be done.
    Failed(FileError),
}

impl From<FileError> for Halt {
    fn from(error: FileError) -> Self {
        Self::Failed(error)
    }
}

/// What was checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    passed: Vec<Need>,
}

impl Gate {
    /// # Errors
    ///
    /// As [`Need::check`].
    pub(crate) fn checked(permit: &Permit, needs: Vec<Need>) -> Result<Self, FileError> {
        for need in &needs {
            need.check(permit)?;
        }
        Ok(Self { passed: needs })
    }

    /// Takes note of what was checked.
    pub(crate) fn pass(&mut self, need: Need) {
        self.passed.push(need);
    }

    fn need(&self, need: Need) -> Result<(), Halt> {
        match self.passed.iter().any(|passed| passed.covers(&need)) {
            true => Ok(()),
            false => Err(Halt::Ask(Box::new(need))),
        }
    }

    /// Asks for `action` on `real`, to which `named` leads.
    pub(crate) fn holds(
        &self,
        action: &'static str,
        real: &FilePath,
        named: &FilePath,
    ) -> Result<(), Halt> {
        self.need(Need::file(action, real).behind(named))
    }

    /// Walks `named`; what it leads to is held with every one of `actions`.
    pub(crate) fn reach(
        &self,
        root: &Root,
        actions: &[&'static str],
        named: &FilePath,
        follow: Follow,
    ) -> Result<Reached, Halt> {
        let real_path = |names: Vec<_>| {
            FilePath::new(named.root().clone(), names)
                .map_err(|error| FileError::new(FileErrorCode::NameTooLong, error.to_string()))
        };
        let walked = match root.walk(named.names(), follow) {
            Ok(walked) => walked,
            Err(failed) => {
                // What is behind a link is not told to whoever may not know it.
                let real = real_path(failed.real)?;
                if !named.is_within(&real) {
                    for action in actions {
                        self.holds(action, &real, named)?;
                    }
                }
                return Err(says(named, failed.error).into());
            }
        };
        let real = real_path(walked.real.clone())?;
        for action in actions {
            self.holds(action, &real, named)?;
        }
        Ok(Reached {
            walked,
            real,
            named: named.clone(),
        })
    }
}

/// Where a path led, and the caller may go.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) walked: Walked,
    /// After all links.
    pub(crate) real: FilePath,
    /// As the caller has it.
    pub(crate) named: FilePath,
}

impl Reached {
    /// Everything below is held with every one of `actions`.
    pub(crate) fn whole(&self, gate: &Gate, actions: &[&'static str]) -> Result<(), Halt> {
        for action in actions {
            gate.need(Need::tree(action, &self.named))?;
            gate.need(Need::tree(action, &self.real).behind(&self.named))?;
        }
        Ok(())
    }

    /// An error about it, as callers hear it.
    pub(crate) fn says(&self, error: RootError) -> FileError {
        says(&self.named, error)
    }

    /// A failure with a sentence about it.
    pub(crate) fn fails(&self, code: FileErrorCode, what: &str) -> FileError {
        FileError::new(code, format!("`{}`: {what}", self.named))
    }
}

/// What is needed of `real`, to which `named` leads.
pub(crate) fn behind(action: &'static str, real: &FilePath, named: &FilePath) -> Need {
    Need::file(action, real).behind(named)
}

/// What happened to `path`, without a word of the host's own paths.
pub(crate) fn says(path: &FilePath, error: RootError) -> FileError {
    use FileErrorCode as Code;
    let (code, what) = match error {
        RootError::Io(error) => return FileError::host(path, error),
        RootError::LeadsOut => (
            Code::LeadsOutside,
            "a symbolic link leads out of the bucket",
        ),
        RootError::NotAFile => (Code::NotAFile, "it is a pipe, a device or a socket"),
        RootError::TooManyLinks => (Code::TooManyLinks, "too many symbolic links"),
        RootError::NameReserved => (Code::NameRefused, "the node keeps such names for itself"),
        RootError::NameInvalid => (Code::BadArgument, "that cannot be a target of a link"),
        RootError::Changed => (Code::FileChanged, "it has changed"),
        RootError::Busy => (Code::FileBusy, "somebody else is writing it"),
        RootError::SetId => (
            Code::BadArgument,
            "set-user-id and set-group-id are refused",
        ),
        RootError::IsRoot => (Code::BadArgument, "that cannot be done to a bucket as such"),
        RootError::Stopped => (Code::FileBusy, "it was stopped"),
    };
    FileError::new(code, format!("`{path}`: {what}"))
}

/// Checks `needs`, then runs `act`, which asks its gate for more before it
/// changes anything.
pub(crate) async fn run<T: Send + 'static>(
    jobs: &Jobs,
    permit: &Permit,
    needs: Vec<Need>,
    act: impl Fn(&Gate) -> Result<T, Halt> + Send + Sync + 'static,
) -> Result<T, FileError> {
    let mut gate = Gate::checked(permit, needs)?;
    let act = Arc::new(act);
    for _ in 0..ROUNDS_MAX {
        let (acting, checked) = (Arc::clone(&act), gate.clone());
        match jobs.run(move || acting(&checked)).await? {
            Ok(done) => return Ok(done),
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Ask(need)) => {
                need.check(permit)?;
                gate.pass(*need);
            }
        }
    }
    let message = "it is moved about all the time";
    Err(FileError::new(FileErrorCode::FileChanged, message))
}
