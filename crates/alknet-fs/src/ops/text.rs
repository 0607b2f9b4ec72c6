//! `fs/read-text` and `fs/write-text`: small texts in one call.

use super::{CreateInput, lacks_parents, make_parents, reads, writes};
use alknet_core::{
    CallError, ErrorSpec, Operation, Registration,
    files::{
        Create, FileError, FileErrorCode, FilePath, FileService, FileStat, OpenOptions,
        ReplaceOptions,
    },
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Most bytes of text in one reply.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of text in a reply to whoever states no number.
const TEXT_BYTES_DEFAULT: usize = 256 * 1024;
/// Most bytes of text in one input.
const TEXT_INPUT_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the longest character.
const CHARACTER_BYTES_MAX: usize = 4;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadTextInput {
    /// The file: `bucket[@branch]/path`.
    file: FilePath,
    /// Where to begin, in bytes: `next` of the part before.
    #[serde(default)]
    offset: u64,
    /// Most bytes to answer with: up to 1 MiB, 256 KiB if it is left out.
    #[serde(default = "text_default")]
    #[schemars(range(min = CHARACTER_BYTES_MAX, max = TEXT_BYTES_MAX))]
    bytes: usize,
}

fn text_default() -> usize {
    TEXT_BYTES_DEFAULT
}

#[derive(Debug, Serialize, JsonSchema)]
struct Text {
    /// The text.
    text: String,
    /// Its length in bytes.
    bytes: usize,
    /// Where the next part begins; none after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    /// Version of the file.
    version: String,
}

pub(super) fn read_text(files: Arc<dyn FileService>) -> Registration {
    reads(Operation::query(
        "fs/read-text",
        "Reads a text file, or a part of it.",
    ))
    .description(
        "Parts end between characters. What is not UTF-8 is refused (`NOT_TEXT`): read it \
             with `fs/read`.",
    )
    .error(ErrorSpec {
        http_status: 415,
        ..ErrorSpec::new("NOT_TEXT", "The file is not UTF-8 there.")
    })
    .example(
        json!({ "file": "inbox/notes.txt" }),
        json!({ "text": "hello", "bytes": 5, "version": "41.1b2.5" }),
    )
    .handler(move |cx, input: ReadTextInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            let ReadTextInput {
                file,
                offset,
                bytes,
            } = input;
            let open = files.open(&permit, &file, OpenOptions::reading()).await?;
            let read = open.read_at(&permit, offset, bytes).await?;
            let stat = open.stat(&permit).await?;
            let is_last = offset.saturating_add(read.len() as u64) >= stat.bytes;
            let Some(text) = whole_characters(&read, is_last) else {
                let message = format!("`{file}` is no text from byte {offset} on");
                return Err(CallError::domain("NOT_TEXT", message));
            };
            let end = offset + text.len() as u64;
            Ok::<_, CallError>(Text {
                bytes: text.len(),
                text: text.into(),
                next: (!is_last && !read.is_empty()).then_some(end),
                version: stat.version,
            })
        }
    })
}

/// The characters that are complete; at the end of the file, all must be.
fn whole_characters(bytes: &[u8], is_last: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if !is_last && error.error_len().is_none() && error.valid_up_to() > 0 => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteTextInput {
    /// The file: `bucket[@branch]/path`.
    file: FilePath,
    /// Its whole new content, up to 4 MiB.
    text: String,
    /// What is done if it is not there, or is.
    #[serde(default)]
    create: CreateInput,
    /// Its version must be this one: `FILE_CHANGED` otherwise.
    #[serde(default)]
    if_version: Option<String>,
    /// Permissions, as a number (420 is 0644); those of the file that was
    /// there, if left out.
    #[serde(default)]
    #[schemars(range(max = 4095))]
    mode: Option<u32>,
    /// Makes the directories above it.
    #[serde(default)]
    parents: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Written {
    /// What the file is now.
    stat: FileStat,
}

pub(super) fn write_text(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "file", "bytes": 5, "mode": 420, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    writes(Operation::mutation(
        "fs/write-text",
        "Writes a text file as a whole.",
    ))
    .description(
        "The file changes as a whole, durably. Pass `if_version`, from `fs/read-text` or \
             `fs/stat`, to replace only what was read.",
    )
    .destructive()
    .idempotent()
    .input_bytes_max(TEXT_INPUT_MAX + TEXT_INPUT_MAX / 2)
    .example(
        json!({ "file": "inbox/notes.txt", "text": "hello" }),
        json!({ "stat": stat }),
    )
    .handler(move |cx, input: WriteTextInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            let WriteTextInput { file, text, .. } = input;
            if text.len() > TEXT_INPUT_MAX {
                let message = format!("`{file}`: a longer text is written with `fs/write`");
                return Err(FileError::new(FileErrorCode::FileTooLarge, message).into());
            }
            let create = Create::from(input.create);
            let options = ReplaceOptions {
                create,
                if_version: input.if_version,
                mode: input.mode,
                bytes: Some(text.len() as u64),
                ..ReplaceOptions::default()
            };
            let begun = files.replace(&permit, &file, options.clone()).await;
            let mut replacement = match begun {
                Err(error) if input.parents && lacks_parents(&error, create) => {
                    make_parents(&*files, &permit, &file).await?;
                    files.replace(&permit, &file, options).await?
                }
                begun => begun?,
            };
            replacement.write(&permit, Bytes::from(text)).await?;
            let stat = replacement.commit(&permit).await?;
            Ok::<_, CallError>(Written { stat })
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_end_between_characters() {
        let text = "aé€😀".as_bytes();
        let check = |bytes: &[u8], is_last, want: Option<&str>| {
            assert_eq!(whole_characters(bytes, is_last), want, "{bytes:?}");
        };
        check(text, true, Some("aé€😀"));
        check(&text[..5], false, Some("aé"));
        check(&text[..9], false, Some("aé€"));
        check(&text[..9], true, None);
        check(&text[2..], false, None);
        check(b"a\xFFb", false, None);
        check(b"", true, Some(""));
    }
}
