//! What can go wrong with files: one code each, which is an errno for those
//! who speak POSIX and a declared domain error for callers.

use crate::{error::CallError, spec::ErrorSpec};
use std::io;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $errno:ident = $number:literal, $http:literal, $says:literal;)*) => {
        /// Why something was not done to a file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FileErrorCode { $($(#[$doc])* #[doc = concat!(" (`", stringify!($errno), "`)")] $name,)* }

        impl FileErrorCode {
            /// Every code.
            pub const ALL: &[FileErrorCode] = &[$(FileErrorCode::$name,)*];

            /// The code as callers see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(FileErrorCode::$name => $text,)* }
            }

            /// The code of that name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(FileErrorCode::$name),)* _ => None }
            }

            /// The number that Linux has for it.
            #[must_use]
            pub fn errno(self) -> i32 {
                match self { $(FileErrorCode::$name => $number,)* }
            }

            /// Status in the HTTP gateway.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(FileErrorCode::$name => $http,)* }
            }

            /// When it happens, as declared.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(FileErrorCode::$name => $says,)* }
            }
        }
    };
}

codes! {
    /// There is no such entry.
    NoSuchFile = "NO_SUCH_FILE", ENOENT = 2, 404, "There is no such file or directory.";
    /// There is no such bucket, or its directory is gone.
    NoSuchBucket = "NO_SUCH_BUCKET", ENOENT = 2, 404, "There is no such bucket, or it cannot be used now.";
    /// There is one already.
    FileExists = "FILE_EXISTS", EEXIST = 17, 409, "There is such an entry already.";
    /// A directory was needed.
    NotADirectory = "NOT_A_DIRECTORY", ENOTDIR = 20, 409, "It is no directory.";
    /// A file was needed.
    IsADirectory = "IS_A_DIRECTORY", EISDIR = 21, 409, "It is a directory.";
    /// It holds entries.
    DirectoryNotEmpty = "DIRECTORY_NOT_EMPTY", ENOTEMPTY = 39, 409, "The directory is not empty.";
    /// A pipe, a device or a socket.
    NotAFile = "NOT_A_FILE", EOPNOTSUPP = 95, 422, "It is a pipe, a device or a socket.";
    /// A link leads out of the bucket.
    LeadsOutside = "LEADS_OUTSIDE", EXDEV = 18, 403, "A symbolic link leads out of the bucket.";
    /// Links lead in a circle.
    TooManyLinks = "TOO_MANY_LINKS", ELOOP = 40, 422, "Too many symbolic links follow one another.";
    /// The account of the node may not.
    HostRefuses = "HOST_REFUSES", EACCES = 13, 403, "The account that the node runs as may not do it.";
    /// The bucket is not written to.
    ReadOnly = "READ_ONLY", EROFS = 30, 403, "The bucket, or its file system, is read-only.";
    /// A name that cannot be used here.
    NameRefused = "NAME_REFUSED", EINVAL = 22, 422, "The name cannot be used here.";
    /// A name is longer than the file system takes.
    NameTooLong = "NAME_TOO_LONG", ENAMETOOLONG = 36, 422, "The name is too long for the file system.";
    /// An argument makes no sense for this file.
    BadArgument = "BAD_ARGUMENT", EINVAL = 22, 422, "What is asked makes no sense for this file.";
    /// The disk is full.
    NoSpace = "NO_SPACE", ENOSPC = 28, 507, "The disk is full, or would be fuller than allowed.";
    /// The bucket is full.
    QuotaExceeded = "QUOTA_EXCEEDED", EDQUOT = 122, 507, "The quota of the bucket, or of the account, is used up.";
    /// The file system takes no file that long.
    FileTooLarge = "FILE_TOO_LARGE", EFBIG = 27, 413, "The file is larger than allowed.";
    /// The two lie on different file systems.
    OtherFileSystem = "OTHER_FILE_SYSTEM", EXDEV = 18, 422, "The two lie in different buckets or file systems: copy and remove.";
    /// Somebody else is at it.
    FileBusy = "FILE_BUSY", EBUSY = 16, 423, "Somebody else is writing it.";
    /// It is not the version that was expected.
    FileChanged = "FILE_CHANGED", ESTALE = 116, 412, "It has changed: it is not the version that was expected.";
    /// The bytes are not those that were announced.
    HashMismatch = "HASH_MISMATCH", EBADMSG = 74, 422, "The bytes do not have the digest that was expected; nothing was kept.";
    /// The node has too many files open.
    TooManyOpen = "TOO_MANY_OPEN", EMFILE = 24, 503, "Too many files are open; later it may go.";
    /// The device failed.
    IoError = "IO_ERROR", EIO = 5, 500, "The disk failed.";
    /// The file system cannot do it.
    Unsupported = "UNSUPPORTED", EOPNOTSUPP = 95, 501, "The file system, or this kind of bucket, cannot do it.";
}

/// Why something was not done to a file. It never names a path of the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The door refuses it.
    #[error(transparent)]
    Refused(#[from] CallError),
    /// The service cannot.
    #[error("{message}")]
    Failed {
        /// Why.
        code: FileErrorCode,
        /// The same as a sentence, with the file in backticks.
        message: String,
        /// What the host said, for the log.
        #[source]
        cause: Option<io::Error>,
    },
}

impl FileError {
    /// A failure with its sentence.
    #[must_use]
    pub fn new(code: FileErrorCode, message: impl Into<String>) -> Self {
        Self::Failed {
            code,
            message: message.into(),
            cause: None,
        }
    }

    /// What the host said of `what`, a file in its canonical form.
    #[must_use]
    pub fn host(what: &dyn std::fmt::Display, cause: io::Error) -> Self {
        use FileErrorCode as Code;
        let (code, says) = match cause.raw_os_error() {
            Some(2) => (Code::NoSuchFile, "there is no such file or directory"),
            Some(17) => (Code::FileExists, "it exists"),
            Some(20) => (Code::NotADirectory, "it is no directory"),
            Some(21) => (Code::IsADirectory, "it is a directory"),
            Some(39) => (Code::DirectoryNotEmpty, "it is not empty"),
            Some(40) => (Code::TooManyLinks, "too many symbolic links"),
            Some(1 | 13) => (Code::HostRefuses, "the account of the node may not"),
            Some(30) => (Code::ReadOnly, "its file system is read-only"),
            Some(36) => (Code::NameTooLong, "the name is too long"),
            Some(22) => (Code::BadArgument, "the file system refuses that"),
            Some(28) => (Code::NoSpace, "the disk is full"),
            Some(122) => (Code::QuotaExceeded, "the account's quota is used up"),
            Some(27) => (Code::FileTooLarge, "it would be too large"),
            Some(18) => (Code::OtherFileSystem, "it lies on another file system"),
            Some(16 | 26) => (Code::FileBusy, "it is in use"),
            Some(116) => (Code::FileChanged, "it has changed"),
            Some(23 | 24) => (Code::TooManyOpen, "too many files are open"),
            Some(38 | 95) => (Code::Unsupported, "the file system cannot do that"),
            _ => (Code::IoError, "the disk failed"),
        };
        Self::Failed {
            code,
            message: format!("`{what}`: {says}"),
            cause: Some(cause),
        }
    }

    /// The code, if the service failed and the door did not refuse.
    #[must_use]
    pub fn code(&self) -> Option<FileErrorCode> {
        match self {
            Self::Refused(_) => None,
            Self::Failed { code, .. } => Some(*code),
        }
    }

    /// The number that Linux has for it; what the door refuses is `EACCES`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.code().map_or(13, FileErrorCode::errno)
    }
}

impl From<FileError> for CallError {
    /// The code is a domain error, declared by [`file_error_specs`].
    fn from(error: FileError) -> Self {
        match error {
            FileError::Refused(refused) => refused,
            FileError::Failed {
                code,
                message,
                cause,
            } => {
                if let (FileErrorCode::IoError, Some(cause)) = (code, &cause) {
                    tracing::error!(%message, %cause, "a file operation failed");
                }
                let retryable = code == FileErrorCode::TooManyOpen;
                CallError::domain(code.as_str(), message).with_retryable(retryable)
            }
        }
    }
}

/// All codes, to be declared by operations on files.
#[must_use]
pub fn file_error_specs() -> Vec<ErrorSpec> {
    let specs = FileErrorCode::ALL.iter().map(|code| ErrorSpec {
        code: code.as_str().into(),
        description: code.description().into(),
        details: None,
        http_status: code.http_status(),
    });
    specs.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_is_declared_and_reads_back() {
        for code in FileErrorCode::ALL {
            assert_eq!(FileErrorCode::parse(code.as_str()), Some(*code));
        }
        assert!(file_error_specs().iter().all(ErrorSpec::is_valid));
    }

    #[test]
    fn what_the_host_says_keeps_its_number() {
        for number in [2, 13, 17, 18, 20, 21, 22, 27, 28, 30, 36, 39, 40, 122] {
            let error = FileError::host(&"www/a", io::Error::from_raw_os_error(number));
            assert_eq!(error.errno(), number, "{error}");
        }
        let odd = FileError::host(&"www/a", io::Error::from_raw_os_error(71));
        assert_eq!(odd.code(), Some(FileErrorCode::IoError));
        assert_eq!(odd.to_string(), "`www/a`: the disk failed");
    }
}
