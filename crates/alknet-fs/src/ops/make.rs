//! What changes entries: `fs/mkdir`, `fs/remove`, `fs/rename`, `fs/link`,
//! `fs/hard-link`, `fs/set-attributes`, `fs/gc`.

use super::{BUCKET, Done, LONG, described, make_directories, with_errors, writes, yes};
use alknet_core::{
    CallError, Operation, Registration,
    files::{
        Attributes, FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat, FileTime,
        Removal, RenameOptions, SetTime, unescape_name,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, Serialize, JsonSchema)]
struct Changed {
    /// What it is now.
    stat: FileStat,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MkdirInput {
    /// The directory: `bucket[@branch]/path`.
    file: FilePath,
    /// Its permissions, as a number (493 is 0755), less those that the node's
    /// account masks.
    #[serde(default)]
    #[schemars(range(max = 4095))]
    mode: Option<u32>,
    /// Makes the directories above it too, and takes one that is there.
    #[serde(default)]
    parents: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MkdirReply {
    /// What it is.
    stat: FileStat,
    /// Whether it was not there before.
    created: bool,
}

pub(super) fn mkdir(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "directory", "bytes": 4096, "mode": 493, "uid": 1000, "gid": 1000, "links": 2,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    writes(Operation::mutation("fs/mkdir", "Makes a directory."))
        .description(
            "Without `parents`, the directory above it must be there, and it must not: \
             `FILE_EXISTS`. With `parents`, only a file of that name is refused.",
        )
        .example(
            json!({ "file": "inbox/photos/2026", "parents": true }),
            json!({ "stat": stat, "created": true }),
        )
        .handler(move |cx, input: MkdirInput| {
            let files = files.clone();
            async move {
                let permit = cx.permit();
                let MkdirInput {
                    file,
                    mode,
                    parents,
                } = input;
                if !parents {
                    let stat = files.make_directory(&permit, &file, mode).await?;
                    return Ok::<_, CallError>(MkdirReply {
                        stat,
                        created: true,
                    });
                }
                let made = make_directories(&*files, &permit, &file, mode).await?;
                if let Some(stat) = made.stat {
                    return Ok(MkdirReply {
                        stat,
                        created: true,
                    });
                }
                let stat = described(&*files, &permit, &file, true).await?;
                if stat.kind != FileKind::Directory {
                    let message = format!("`{file}`: it exists, and is no directory");
                    return Err(FileError::new(FileErrorCode::FileExists, message).into());
                }
                Ok(MkdirReply {
                    stat,
                    created: false,
                })
            }
        })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveInput {
    /// What to remove: `bucket[@branch]/path`.
    file: FilePath,
    /// Removes a directory with all that is in it.
    #[serde(default)]
    recursive: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct RemoveReply {
    /// Files, links and others that were removed.
    files: u64,
    /// Directories that were removed.
    directories: u64,
}

pub(super) fn remove(files: Arc<dyn FileService>) -> Registration {
    writes(Operation::mutation(
        "fs/remove",
        "Removes a file, a link or a directory.",
    ))
    .description(
        "A link is removed itself, never what it leads to. A directory that is not empty \
             takes `recursive`, and the right to write everything below it.",
    )
    .destructive()
    .timeout(LONG)
    .example(
        json!({ "file": "inbox/old.txt" }),
        json!({ "files": 1, "directories": 0 }),
    )
    .example(
        json!({ "file": "inbox/old", "recursive": true }),
        json!({ "files": 12, "directories": 3 }),
    )
    .handler(move |cx, input: RemoveInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            let RemoveInput { file, recursive } = input;
            let removed = match recursive {
                true => files.remove(&permit, &file, Removal::Tree).await,
                false => match files.remove(&permit, &file, Removal::File).await {
                    Err(error) if error.code() == Some(FileErrorCode::IsADirectory) => {
                        files.remove(&permit, &file, Removal::Directory).await
                    }
                    other => other,
                },
            }?;
            Ok::<_, CallError>(RemoveReply {
                files: removed.files,
                directories: removed.directories,
            })
        }
    })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RenameInput {
    /// What to rename: `bucket[@branch]/path`.
    file: FilePath,
    /// Its new path, in the same bucket.
    to: FilePath,
    /// Replaces what has that name, as POSIX does; `FILE_EXISTS` if not.
    #[serde(default)]
    replace: bool,
}

pub(super) fn rename(files: Arc<dyn FileService>) -> Registration {
    moves(Operation::mutation(
        "fs/rename",
        "Renames or moves within a bucket.",
    ))
    .description(
        "A link is renamed itself. Takes the right to read and write all of what is moved, \
             and to write where it goes: otherwise a move would make readable what was not. \
             Between buckets: copy, then remove.",
    )
    .destructive()
    .example(
        json!({ "file": "inbox/a.txt", "to": "inbox/b.txt" }),
        json!({}),
    )
    .handler(move |cx, input: RenameInput| {
        let files = files.clone();
        async move {
            let RenameInput { file, to, replace } = input;
            let options = RenameOptions { replace };
            files.rename(&cx.permit(), &file, &to, options).await?;
            Ok::<_, CallError>(Done {})
        }
    })
}

/// An operation that gives something another name.
fn moves(operation: alknet_core::OperationBuilder) -> alknet_core::OperationBuilder {
    with_errors(operation)
        .requires("fs:write")
        .resource(BUCKET, "read", "/file")
        .resource(BUCKET, "write", "/file")
        .resource(BUCKET, "write", "/to")
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LinkInput {
    /// The link to make: `bucket[@branch]/path`.
    file: FilePath,
    /// Where it leads: a relative path that stays in the bucket,
    /// percent-escaped as names are.
    #[schemars(length(min = 1))]
    target: String,
}

pub(super) fn link(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "symlink", "bytes": 9, "mode": 511, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    writes(Operation::mutation("fs/link", "Makes a symbolic link."))
        .description(
            "`target` is read from the directory that the link lies in, and need not exist. \
             One that is absolute, climbs out of the bucket, or has `..` after a name is refused: \
             `LEADS_OUTSIDE`.",
        )
        .example(
            json!({ "file": "inbox/latest", "target": "notes.txt" }),
            json!({ "stat": stat }),
        )
        .handler(move |cx, input: LinkInput| {
            let files = files.clone();
            async move {
                let permit = cx.permit();
                let target = unescape_name(&input.target)
                    .map_err(|error| CallError::invalid_field("/target", error.to_string()))?;
                files.symlink(&permit, &input.file, &target).await?;
                let stat = described(&*files, &permit, &input.file, false).await?;
                Ok::<_, CallError>(Changed { stat })
            }
        })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HardLinkInput {
    /// The file that is there: `bucket[@branch]/path`.
    file: FilePath,
    /// Its second name, in the same bucket.
    to: FilePath,
}

pub(super) fn hard_link(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "file", "bytes": 5, "mode": 420, "uid": 1000, "gid": 1000, "links": 2,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    moves(Operation::mutation(
        "fs/hard-link",
        "Gives a file a second name.",
    ))
    .description(
        "Both names are the same file from then on, so it takes the right to read and \
             write under the first, and to write under the second.",
    )
    .example(
        json!({ "file": "inbox/notes.txt", "to": "inbox/again.txt" }),
        json!({ "stat": stat }),
    )
    .handler(move |cx, input: HardLinkInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            files.link(&permit, &input.file, &input.to).await?;
            let stat = described(&*files, &permit, &input.to, false).await?;
            Ok::<_, CallError>(Changed { stat })
        }
    })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetAttributesInput {
    /// The file, directory or link: `bucket[@branch]/path`.
    file: FilePath,
    /// Whether a link at its end is followed.
    #[serde(default = "yes")]
    follow: bool,
    /// Permissions, as a number (420 is 0644); bits that let others run it as
    /// somebody else are refused.
    #[serde(default)]
    #[schemars(range(max = 4095))]
    mode: Option<u32>,
    /// Time of the last change: RFC 3339, or `now`.
    #[serde(default)]
    mtime: Option<String>,
    /// Time of the last reading: RFC 3339, or `now`.
    #[serde(default)]
    atime: Option<String>,
    /// Number of the owner.
    #[serde(default)]
    uid: Option<u32>,
    /// Number of the group.
    #[serde(default)]
    gid: Option<u32>,
    /// Length in bytes: cut off there, or filled up with a hole.
    #[serde(default)]
    bytes: Option<u64>,
}

fn time(pointer: &str, text: Option<&String>) -> Result<Option<SetTime>, CallError> {
    match text.map(String::as_str) {
        None => Ok(None),
        Some("now") => Ok(Some(SetTime::Now)),
        Some(text) => match text.parse::<FileTime>() {
            Ok(time) => Ok(Some(SetTime::To(time))),
            Err(error) => Err(CallError::invalid_field(pointer, error.to_string())),
        },
    }
}

pub(super) fn set_attributes(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "file", "bytes": 5, "mode": 384, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    writes(Operation::mutation(
        "fs/set-attributes",
        "Sets permissions, times, owner or length.",
    ))
    .description(
        "What is left out stays as it is. Another owner takes a node that runs as root: \
         `HOST_REFUSES` otherwise.",
    )
    .idempotent()
    .example(
        json!({ "file": "inbox/notes.txt", "mode": 384 }),
        json!({ "stat": stat }),
    )
    .handler(move |cx, input: SetAttributesInput| {
        let files = files.clone();
        async move {
            let attributes = Attributes {
                bytes: input.bytes,
                mode: input.mode,
                uid: input.uid,
                gid: input.gid,
                mtime: time("/mtime", input.mtime.as_ref())?,
                atime: time("/atime", input.atime.as_ref())?,
            };
            let permit = cx.permit();
            let stat = files
                .set_attributes(&permit, &input.file, input.follow, attributes)
                .await?;
            Ok::<_, CallError>(Changed { stat })
        }
    })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GcInput {
    /// The directory: `bucket[@branch]/path`.
    file: FilePath,
}

#[derive(Debug, Serialize, JsonSchema)]
struct GcReply {
    /// Uploads that were cut and that nobody goes on with.
    partials: u64,
    /// Bytes that they took.
    bytes: u64,
}

pub(super) fn gc(files: Arc<dyn FileService>) -> Registration {
    with_errors(Operation::mutation(
        "fs/gc",
        "Removes what was begun and is not gone on with.",
    ))
    .description(
        "Partial uploads below a directory that nobody writes to now are removed: those \
             who began them start again.",
    )
    .resource(BUCKET, "admin", "/file")
    .requires("fs:gc")
    .destructive()
    .idempotent()
    .timeout(LONG)
    .example(
        json!({ "file": "inbox" }),
        json!({ "partials": 0, "bytes": 0 }),
    )
    .handler(move |cx, input: GcInput| {
        let files = files.clone();
        async move {
            let collected = files.collect(&cx.permit(), &input.file).await?;
            Ok::<_, CallError>(GcReply {
                partials: collected.partials,
                bytes: collected.bytes,
            })
        }
    })
}
