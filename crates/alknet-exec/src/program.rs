//! Finding a program on the configured search path.
//!
//! Not left to the operating system: `execvp` and `Command` look at a `PATH`
//! of the environment, which for a child with a cleared environment may be
//! the parent's or the C library's own.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Why a program cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FindError {
    /// No file of that name.
    Missing,
    /// A file that is not executable, or no file at all.
    NotRunnable,
}

/// Finds `name`: a path with `/` is taken as it is, a bare name is looked for
/// in the directories of `path`, in their order.
pub(crate) fn find(name: &str, path: &[PathBuf]) -> Result<PathBuf, FindError> {
    if name.contains('/') {
        let program = PathBuf::from(name);
        return look(&program).map(|()| program);
    }
    if name.is_empty() {
        return Err(FindError::Missing);
    }
    let mut worst = FindError::Missing;
    for directory in path {
        let program = directory.join(OsStr::new(name));
        match look(&program) {
            Ok(()) => return Ok(program),
            Err(FindError::NotRunnable) => worst = FindError::NotRunnable,
            Err(FindError::Missing) => {}
        }
    }
    Err(worst)
}

fn look(program: &Path) -> Result<(), FindError> {
    match program.metadata() {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(FindError::NotRunnable),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(FindError::NotRunnable)
        }
        Err(_) => Err(FindError::Missing),
    }
}
