//! What can go wrong below a root.

use alknet_core::files::FileName;
use std::io;

/// Why an act below a root was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// What the host answered, with its error number.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A symlink whose target is absolute or climbs above the root, or a path that
    /// would need one.
    #[error("the path leads out of the root")]
    LeadsOut,
    /// A FIFO, device or socket, where a file was asked for.
    #[error("not a regular file")]
    NotAFile,
    /// More symlinks than [`LINKS_MAX`](super::LINKS_MAX) on one path.
    #[error("too many symlinks")]
    TooManyLinks,
    /// A name that only the service itself uses.
    #[error("the name is reserved")]
    NameReserved,
    /// Not a name of an entry: empty, `.`, `..`, over 255 bytes, or with `/` or NUL.
    #[error("not a name of a file")]
    NameInvalid,
    /// Another entry stands where one was found before, or it has another version
    /// than was asked for.
    #[error("changed meanwhile")]
    Changed,
    /// Somebody else writes the same partial file.
    #[error("being written by somebody else")]
    Busy,
    /// A mode with set-user-id or set-group-id, which nobody sets from afar.
    #[error("set-user-id and set-group-id bits are refused")]
    SetId,
    /// The root itself, where an entry of a directory was asked for.
    #[error("the root itself cannot be changed so")]
    IsRoot,
    /// The caller's own callback ended the act.
    #[error("stopped")]
    Stopped,
}

/// Why a walk did not end, and where.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct WalkError {
    /// Why.
    #[source]
    pub error: RootError,
    /// The names from the root on, with every symlink before it resolved, up to the
    /// one at which it ended: of whose being there or not the error tells.
    pub real: Vec<FileName>,
}

impl From<WalkError> for RootError {
    fn from(ended: WalkError) -> Self {
        ended.error
    }
}

impl RootError {
    /// The host's error number, for [`RootError::Io`].
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io(error) => error.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the host answered that nothing is there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn not_found() -> Self {
        rustix::io::Errno::NOENT.into()
    }
}

impl From<rustix::io::Errno> for RootError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}
