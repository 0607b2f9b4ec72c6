//! Operations on files: what callers reach a [`FileService`] through.
//!
//! They know no host and no bucket: each reads its input, asks the service
//! with the permit of the call, and shapes the answer.

mod compare;
mod copy;
mod describe;
mod digest;
mod gather;
mod list;
mod make;
mod read;
mod read_many;
mod search;
mod text;
mod usage;
mod walk;
mod watch;
mod write;
mod write_many;

use alknet_core::{
    CallError, ErrorCode, Hints, OperationBuilder, Permit, Registration,
    files::{
        Attributes, Create, FileError, FileErrorCode, FilePath, FileService, file_error_specs,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Entries that are dealt with together, in streams of many.
const BATCH_FILES_MAX: usize = 256;

/// How long operations on a whole tree, or all bytes of a file, may take.
const LONG: Duration = Duration::from_secs(600);

/// Hints of channels that only read.
const READS: Hints = Hints {
    read_only: true,
    idempotent: true,
    destructive: false,
    open_world: false,
};

/// Kind of the resources that all of them are about.
const BUCKET: &str = "bucket";

/// The operations on files of a service: `fs/list`, `fs/read`, `fs/write` and
/// their like.
#[must_use]
pub fn file_operations(files: &Arc<dyn FileService>) -> Vec<Registration> {
    vec![
        list::buckets(files.clone()),
        list::list(files.clone()),
        describe::stat(files.clone()),
        search::search(files.clone()),
        watch::watch(files.clone()),
        usage::usage(files.clone()),
        read::read(files.clone()),
        text::read_text(files.clone()),
        read_many::read_many(files.clone()),
        digest::digest(files.clone()),
        compare::compare(files.clone()),
        write::write(files.clone()),
        text::write_text(files.clone()),
        write_many::write_many(files.clone()),
        copy::copy(files.clone()),
        make::mkdir(files.clone()),
        make::remove(files.clone()),
        make::rename(files.clone()),
        make::link(files.clone()),
        make::hard_link(files.clone()),
        make::set_attributes(files.clone()),
        make::gc(files.clone()),
    ]
}

/// An operation that lists: scope `fs:list`, `list` on `/file`.
fn lists(operation: OperationBuilder) -> OperationBuilder {
    with_errors(operation)
        .requires("fs:list")
        .resource(BUCKET, "list", "/file")
}

/// An operation that reads: scope `fs:read`, `read` on `/file`.
fn reads(operation: OperationBuilder) -> OperationBuilder {
    with_errors(operation)
        .requires("fs:read")
        .resource(BUCKET, "read", "/file")
}

/// An operation that writes: scope `fs:write`, `write` on `/file`.
fn writes(operation: OperationBuilder) -> OperationBuilder {
    with_errors(operation)
        .requires("fs:write")
        .resource(BUCKET, "write", "/file")
}

/// Declares what can go wrong with files.
pub(crate) fn with_errors(operation: OperationBuilder) -> OperationBuilder {
    file_error_specs()
        .into_iter()
        .fold(operation, OperationBuilder::error)
}

/// What is done if a file is not there, or is.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CreateInput {
    /// It is made if it is not there.
    #[default]
    IfMissing,
    /// It must not be there.
    New,
    /// It must be there.
    Never,
}

impl From<CreateInput> for Create {
    fn from(input: CreateInput) -> Self {
        match input {
            CreateInput::IfMissing => Create::IfMissing,
            CreateInput::New => Create::New,
            CreateInput::Never => Create::Never,
        }
    }
}

/// An answer that says nothing but that it was done.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {}

pub(crate) fn yes() -> bool {
    true
}

fn bad_argument(message: impl Into<String>) -> CallError {
    FileError::new(FileErrorCode::BadArgument, message).into()
}

/// The input of a channel was cut before its end.
fn cut() -> CallError {
    CallError::new(ErrorCode::Cancelled, "the input was cut before its end")
}

/// The caller of a channel takes no more.
fn reader_gone() -> CallError {
    CallError::new(ErrorCode::Cancelled, "the caller takes no more bytes")
}

/// Makes a directory and those above it that are missing, which nobody asks
/// about as long as the ones below them are there.
async fn make_directories(
    files: &dyn FileService,
    permit: &Permit,
    path: &FilePath,
    mode: Option<u32>,
) -> Result<Made, FileError> {
    let mut missing = vec![path.clone()];
    let mut made = Made::default();
    while let Some(next) = missing.last() {
        let is_last = missing.len() == 1;
        let mode = mode.filter(|_| is_last);
        match files.make_directory(permit, next, mode).await {
            Ok(stat) => {
                made = Made { stat: Some(stat) };
                missing.pop();
            }
            Err(error) if error.code() == Some(FileErrorCode::FileExists) => {
                made = Made::default();
                missing.pop();
            }
            Err(error) if error.code() == Some(FileErrorCode::NoSuchFile) => {
                // Removed by somebody as soon as it is made: not for ever.
                if missing.len() > path.names().len() {
                    return Err(error);
                }
                match next.parent().filter(|parent| !parent.names().is_empty()) {
                    Some(parent) => missing.push(parent),
                    None => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// What [`make_directories`] did.
#[derive(Debug, Default)]
struct Made {
    /// Of the directory that was asked for, unless it was there.
    stat: Option<alknet_core::files::FileStat>,
}

/// Makes the directories above a file.
async fn make_parents(
    files: &dyn FileService,
    permit: &Permit,
    path: &FilePath,
) -> Result<(), FileError> {
    match path.parent().filter(|parent| !parent.names().is_empty()) {
        Some(parent) => make_directories(files, permit, &parent, None)
            .await
            .map(drop),
        None => Ok(()),
    }
}

/// Whether a file could be made if its directories were.
fn lacks_parents(error: &FileError, create: Create) -> bool {
    create != Create::Never && error.code() == Some(FileErrorCode::NoSuchFile)
}

/// Describes what is written to, with a permit to write.
async fn described(
    files: &dyn FileService,
    permit: &Permit,
    path: &FilePath,
    follow: bool,
) -> Result<alknet_core::files::FileStat, FileError> {
    files
        .set_attributes(permit, path, follow, Attributes::default())
        .await
}
