//! `fs/watch`: changes as they happen.

use super::lists;
use alknet_core::{
    CallError, Context, Operation, Permit, Registration,
    files::{ChangeKind, FileChange, FilePath, FileService, Watch, WatchOptions},
};
use futures::Stream;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::{collections::VecDeque, sync::Arc};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchInput {
    /// A directory or a file: `bucket[@branch]/path`.
    file: FilePath,
    /// Everything below the directory, not just its entries.
    #[serde(default)]
    recursive: bool,
    /// Only what came after the change with this cursor.
    #[serde(default)]
    #[schemars(length(max = 64))]
    after: Option<String>,
}

pub(super) fn watch(files: Arc<dyn FileService>) -> Registration {
    lists(Operation::subscription("fs/watch", "Tells changes of a directory or a file as they happen."))
        .description(
            "The first item, unless `after` is given, is of the kind `started`: what happens from \
             there on is told, so whoever keeps a copy lists then. `missed` says that changes \
             were not kept, or that the host could not tell them: list again. Writes that follow \
             one another closely are told once. Links are followed once, at the start; changes \
             are told of where they lead. What the caller may not list is left out. A directory \
             that is removed or moved away is told as its last change, `removed`, and ends it; a \
             file may come back.",
        )
        .resumable("cursor", "after")
        .example(
            json!({ "file": "inbox", "recursive": true }),
            json!({ "cursor": "9f86d081884c7d65-7", "kind": "created", "file": "inbox/notes.txt", "entry": "file" }),
        )
        .stream(move |cx, input: WatchInput| {
            let files = files.clone();
            async move { Ok(Following::begin(&*files, cx, input).await?.items()) }
        })
}

/// A watch, and what of its last answer was not told yet.
struct Following {
    cx: Context,
    permit: Permit,
    watch: Box<dyn Watch>,
    ready: VecDeque<FileChange>,
}

impl Following {
    async fn begin(
        files: &dyn FileService,
        cx: Context,
        input: WatchInput,
    ) -> Result<Self, CallError> {
        let permit = cx.permit();
        let is_fresh = input.after.is_none();
        let options = WatchOptions {
            recursive: input.recursive,
            after: input.after,
        };
        let watch = files.watch(&permit, &input.file, options).await?;
        let started = is_fresh.then(|| FileChange {
            cursor: watch.cursor(),
            kind: ChangeKind::Started,
            file: watch.path().clone(),
            from: None,
            entry: None,
        });
        Ok(Self {
            cx,
            permit,
            watch,
            ready: started.into_iter().collect(),
        })
    }

    fn items(self) -> impl Stream<Item = Result<FileChange, CallError>> + Send + 'static {
        futures::stream::try_unfold(self, |mut following| async move {
            if following.ready.is_empty() {
                let changes = tokio::select! {
                    changes = following.watch.next(&following.permit) => changes?,
                    () = following.cx.draining() => Vec::new(),
                };
                following.ready.extend(changes);
            }
            let next = following.ready.pop_front();
            Ok(next.map(|change| (change, following)))
        })
    }
}
