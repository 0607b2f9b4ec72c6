//! Permissions and times of directories, once everything is in them.

use super::{
    compare::comparison,
    entry::{Differs, Entry},
    lane::{self, Batch, Loaded},
    remote::Remote,
    stage::{Copy, Target, WINDOW, blocking, walk},
    trouble::{Problem, Trouble},
};
use crate::node_access::{
    ChannelCall, ErrorCode, FilePath,
    stream::{Difference, Differs as Told, Lines, line},
};
use bytes::BytesMut;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Directories that are compared at a time.
const COMPARED_AT_ONCE: usize = 256;

/// Walks the directories once more, which is cheap, and needs no list of them.
pub(super) async fn run(copy: &Arc<Copy>) -> Result<(), Trouble> {
    let (walked, entries) = mpsc::channel(WINDOW);
    let walking = walk(copy.clone(), true, walked);
    let setting = async {
        match &copy.target {
            Target::Local { .. } => here(copy, entries).await,
            Target::Remote { remote, directory } => there(copy, remote, directory, entries).await,
        }
    };
    let (walked, set) = tokio::join!(walking, setting);
    set.and(walked)
}

/// In a directory of this machine.
async fn here(copy: &Copy, mut entries: mpsc::Receiver<Entry>) -> Result<(), Trouble> {
    let Some(mut tree) = copy.target.tree() else {
        return Ok(());
    };
    // Directories that cannot be passed any more: those in them come first.
    let mut closed: Vec<Entry> = Vec::new();
    loop {
        let mut batch = Vec::new();
        if entries.recv_many(&mut batch, WINDOW).await == 0 {
            break;
        }
        let report = copy.report.clone();
        let set = blocking(move || {
            let mut later = Vec::new();
            for entry in batch.into_iter().filter(|entry| !entry.path.is_top()) {
                if entry.copied_mode() & 0o700 != 0o700 {
                    later.push(entry);
                    continue;
                }
                // Whatever else it differs in was told before.
                if let Ok(Some(Differs::Attributes)) = tree.differs(&entry, true)
                    && let Err(error) = tree.set_attributes(&entry)
                    && !error.is_not_found()
                {
                    report.failed(&entry.path, &Problem::of_root(&error), 0);
                }
            }
            (tree, later)
        });
        let later;
        (tree, later) = set.await?;
        closed.extend(later);
    }
    let report = copy.report.clone();
    blocking(move || {
        while let Some(entry) = closed.pop() {
            if let Ok(Some(Differs::Attributes)) = tree.differs(&entry, true)
                && let Err(error) = tree.set_attributes(&entry)
                && !error.is_not_found()
            {
                report.failed(&entry.path, &Problem::of_root(&error), 0);
            }
        }
    })
    .await
}

/// In a directory of a bucket.
async fn there(
    copy: &Copy,
    remote: &Remote,
    directory: &FilePath,
    entries: mpsc::Receiver<Entry>,
) -> Result<(), Trouble> {
    let (sorted, to_set) = mpsc::channel(1);
    let setting = lane::put_there(&copy.report, remote, directory, &copy.args, to_set);
    let (found, set) = tokio::join!(find(remote, directory, entries, sorted), setting);
    set.and(found)
}

/// Finds directories with other attributes than those of their sources.
async fn find(
    remote: &Remote,
    directory: &FilePath,
    mut entries: mpsc::Receiver<Entry>,
    sorted: mpsc::Sender<Batch>,
) -> Result<(), Trouble> {
    let complete = |entry| Loaded {
        entry,
        pieces: Vec::new(),
        is_complete: true,
    };
    // Directories that cannot be passed any more: those in them come first.
    let mut closed: Vec<Entry> = Vec::new();
    loop {
        let mut batch = Vec::new();
        if entries.recv_many(&mut batch, COMPARED_AT_ONCE).await == 0 {
            break;
        }
        batch.retain(|entry| !entry.path.is_top());
        if batch.is_empty() {
            continue;
        }
        let differing = differing(remote, directory, batch).await?;
        let is_closed = |entry: &Entry| entry.copied_mode() & 0o700 != 0o700;
        let (later, now): (Vec<_>, Vec<_>) = differing.into_iter().partition(is_closed);
        closed.extend(later);
        if !now.is_empty() {
            let batch = now.into_iter().map(complete).collect();
            sorted.send(batch).await.map_err(|_| Trouble::Quiet)?;
        }
    }
    closed.reverse();
    if !closed.is_empty() {
        let batch = closed.into_iter().map(complete).collect();
        sorted.send(batch).await.map_err(|_| Trouble::Quiet)?;
    }
    Ok(())
}

/// Those whose attributes are others; all, if nobody may say.
async fn differing(
    remote: &Remote,
    directory: &FilePath,
    batch: Vec<Entry>,
) -> Result<Vec<Entry>, Trouble> {
    let input = json!({ "file": directory.to_string() });
    let ChannelCall { channel, done, .. } = match remote.open("fs/compare", &input).await {
        Ok(call) => call,
        Err(error) if error.is(ErrorCode::Forbidden) => return Ok(batch),
        Err(error) => return Err(remote.of_all(error)),
    };
    let (mut tx, mut rx) = (channel.tx, channel.rx);
    let sending = async {
        let mut lines = BytesMut::new();
        for entry in &batch {
            lines.extend_from_slice(&line(&comparison(entry, true, true)?));
        }
        // If nobody takes them, the result says why.
        let _ = tx.send(lines.freeze()).await;
        tx.end();
        Ok::<(), Trouble>(())
    };
    let hearing = async {
        let mut lines = Lines::new();
        let mut differing = Vec::new();
        while let Ok(Some(chunk)) = rx.recv().await {
            lines.push(chunk.bytes);
            loop {
                match lines
                    .next_value()
                    .map_err(|error| remote.nonsense(&error.to_string()))?
                {
                    None => break,
                    Some(Difference::Entry {
                        path,
                        differs: Told::Attributes,
                    }) => differing.push(path.to_string()),
                    // Whatever else they differ in was told before.
                    Some(_) => {}
                }
            }
        }
        Ok::<Vec<String>, Trouble>(differing)
    };
    let ((), differing) = tokio::try_join!(sending, hearing)?;
    done.await.map_err(|error| remote.of_all(error))?;
    let is_named = |entry: &Entry| differing.iter().any(|path| path == entry.path.as_str());
    Ok(batch.into_iter().filter(is_named).collect())
}
