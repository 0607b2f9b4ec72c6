//! `fs/stat`.

use super::{reads, yes};
use alknet_core::{
    CallError, Operation, Permit, Registration,
    files::{FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat, escape_name},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StatInput {
    /// The file, directory or link: `bucket[@branch]/path`.
    file: FilePath,
    /// Whether a link at its end is followed.
    #[serde(default = "yes")]
    follow: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Described {
    /// What it is.
    #[serde(flatten)]
    stat: FileStat,
    /// Where a link leads, percent-escaped as names are; not told if that is
    /// outside of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(super) fn stat(files: Arc<dyn FileService>) -> Registration {
    let example = json!({
        "kind": "file", "bytes": 5, "mode": 420, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    reads(Operation::query(
        "fs/stat",
        "Describes a file, a directory or a link.",
    ))
    .description(
        "`version` is another text whenever the file or its content is another: pass it \
             as `if_version` to read or replace exactly that.",
    )
    .example(json!({ "file": "inbox/notes.txt" }), example)
    .handler(move |cx, input: StatInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            let stat = files.stat(&permit, &input.file, input.follow).await?;
            let target = match stat.kind {
                FileKind::Symlink => target(&*files, &permit, &input.file).await?,
                _ => None,
            };
            Ok::<_, CallError>(Described { stat, target })
        }
    })
}

/// Where a link leads, if that may be told.
pub(super) async fn target(
    files: &dyn FileService,
    permit: &Permit,
    path: &FilePath,
) -> Result<Option<String>, FileError> {
    match files.read_link(permit, path).await {
        Ok(target) => Ok(Some(escape_name(&target).into_owned())),
        Err(error) if error.code() == Some(FileErrorCode::LeadsOutside) => Ok(None),
        Err(error) => Err(error),
    }
}
