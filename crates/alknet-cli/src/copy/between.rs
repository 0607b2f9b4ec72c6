//! Copies that no bytes of come here: within one node, and from one peer to
//! another that it knows.

use super::{
    entry::{Differs, Entry, Origin, RelPath},
    remote::{Remote, RemoteSource},
    report::{Done, Report, Sums},
    stage::{Copy, Source, Target},
    trouble::{Problem, Trouble},
};
use crate::{
    app::App,
    node_access::{
        CallError, ChannelCall, ErrorCode, FileKind, FilePath, RouteStep, stream::Lines,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Copies what nodes can copy by themselves; the rest is left in the sources.
pub(super) async fn run(app: &App, copy: &mut Copy) -> Result<(), Trouble> {
    let Target::Remote { remote, directory } = &copy.target else {
        return Ok(());
    };
    let args = &copy.args;
    // What these mean is known here only.
    if args.dry_run || args.checksum || args.dereference || args.no_clobber {
        return Ok(());
    }
    let mut left = Vec::new();
    for source in std::mem::take(&mut copy.sources) {
        let Source::Remote(remote_source) = &source else {
            left.push(source);
            continue;
        };
        let to = remote_source
            .prefix
            .below(directory)
            .map_err(|error| Problem::of_path(&error))?;
        let done = match remote_source.remote.route == remote.route {
            true => whole_tree(copy, remote, remote_source, &to).await,
            false => pull(app, copy, remote, remote_source, &to).await,
        };
        match done {
            Ok(true) => {}
            Ok(false) => left.push(source),
            Err(Trouble::Entry(problem)) => copy.report.failed(&remote_source.prefix, &problem, 0),
            Err(other) => return Err(other),
        }
    }
    copy.sources = left;
    Ok(())
}

/// Copies a tree that is not there yet within a node. What is there in part is
/// compared first, file by file.
async fn whole_tree(
    copy: &Copy,
    remote: &Remote,
    source: &RemoteSource,
    to: &FilePath,
) -> Result<bool, Trouble> {
    if source.known.stat.kind != FileKind::Directory || to.names().is_empty() {
        return Ok(false);
    }
    match remote.stat(to, false).await {
        Err(Trouble::Entry(problem)) if problem.code == "NO_SUCH_FILE" => {}
        Ok(_) | Err(Trouble::Entry(_)) => return Ok(false),
        Err(other) => return Err(other),
    }
    let input = json!({
        "file": source.file.to_string(), "to": to.to_string(),
        "attributes": !copy.args.no_preserve, "recursive": true,
    });
    let copied: Copied = match remote.patiently("fs/copy", &input).await {
        Ok(copied) => {
            serde_json::from_value(copied).map_err(|error| remote.nonsense(&error.to_string()))?
        }
        // A large one: the next attempt goes on file by file.
        Err(error) => return Err(remote.of_entry(error)),
    };
    for error in &copied.errors {
        let path = RelPath::parse(&error.path).unwrap_or_else(|_| RelPath::top());
        let problem = Problem::new(&error.code, error.message.clone());
        copy.report.failed(&source.prefix.join(&path), &problem, 0);
    }
    let told = copied.errors.len() as u64;
    copy.report.add(&Sums {
        files: copied.files,
        bytes: copied.bytes,
        directories: copied.directories,
        links: copied.links,
        special: copied.skipped,
        failed: copied.failed.saturating_sub(told),
        ..Sums::default()
    });
    Ok(true)
}

#[derive(Debug, Deserialize)]
struct Copied {
    files: u64,
    bytes: u64,
    #[serde(default)]
    directories: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    failed: u64,
    #[serde(default)]
    errors: Vec<CopyError>,
}

#[derive(Debug, Deserialize)]
struct CopyError {
    path: String,
    code: String,
    message: String,
}

/// Copies one file within a node.
pub(super) async fn one(
    copy: &Copy,
    entry: &Entry,
    remote: &Remote,
    to: &FilePath,
) -> Result<(), Trouble> {
    let Origin::Remote { base, path, .. } = &entry.origin else {
        return Ok(());
    };
    let file = path.below(base).map_err(|error| Problem::of_path(&error))?;
    let input = json!({
        "file": file.to_string(), "to": to.to_string(),
        "create": if copy.args.no_clobber { "new" } else { "if-missing" },
        "attributes": !copy.args.no_preserve,
    });
    remote.call::<Value>("fs/copy", &input).await.map(drop)
}

/// Whether an entry lies in the node that it is copied to.
pub(super) fn is_within<'a>(
    entry: &Entry,
    target: &'a Target,
) -> Option<(&'a Remote, &'a FilePath)> {
    match (&entry.origin, target) {
        (Origin::Remote { remote: from, .. }, Target::Remote { remote, directory })
            if from.route == remote.route =>
        {
            Some((remote, directory))
        }
        _ => None,
    }
}

/// Has the target fetch it from the source, if they know each other.
async fn pull(
    app: &App,
    copy: &Copy,
    to_remote: &Remote,
    source: &RemoteSource,
    to: &FilePath,
) -> Result<bool, Trouble> {
    let is_directory = source.known.stat.kind == FileKind::Directory;
    if source.known.stat.kind == FileKind::Symlink || to.names().is_empty() {
        return Ok(false);
    }
    let through = |reason: &str| {
        copy.report
            .detail(&format!("the bytes pass through here: {reason}"));
        Ok(false)
    };
    let Some(to_node) = node_id(app, to_remote).await? else {
        return through("the key of the destination is not known");
    };
    let input =
        json!({ "file": source.file.to_string(), "to_node": to_node, "recursive": is_directory });
    let offered = match source.remote.patiently("fs/offer", &input).await {
        Ok(offered) => offered,
        Err(error) if super::trouble::is_passing(&error) => return Err(Trouble::Lost(error)),
        Err(error) => return through(&error.message),
    };
    let mut input = json!({
        "file": to.to_string(), "from_node": offered.get("node"), "offer": offered.get("offer"),
        "attributes": !copy.args.no_preserve, "ignore_times": !copy.args.trusts_times(),
        "restart": copy.args.restart, "each": true,
    });
    if copy.args.parents {
        input["parents"] = json!(true);
    }
    let call = match to_remote.open("fs/pull", &input).await {
        Ok(call) => call,
        Err(error) if can_be_carried(&error) => return through(&error.message),
        Err(error) => return Err(to_remote.of_entry(error)),
    };
    copy.report
        .detail("the bytes go from one peer to the other");
    let told = hear(&copy.report, to_remote, source, call).await?;
    copy.report.add(&told);
    Ok(true)
}

/// Whether a refusal is about the way between the two.
fn can_be_carried(error: &CallError) -> bool {
    let is_unable = matches!(
        error.protocol_code(),
        Some(ErrorCode::NotFound | ErrorCode::Unavailable | ErrorCode::Lost | ErrorCode::Timeout)
    );
    is_unable || matches!(&*error.code, "NOT_CONNECTED" | "NO_SUCH_OFFER")
}

#[derive(Debug, Deserialize)]
struct Told {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    kind: Option<FileKind>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    skipped: bool,
    #[serde(default)]
    error: Option<ToldError>,
    #[serde(default)]
    progress: Option<Progress>,
}

#[derive(Debug, Deserialize)]
struct ToldError {
    code: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Progress {
    #[serde(default)]
    bytes: u64,
}

/// Tells what the other node tells, and what it left out of that.
async fn hear(
    report: &Arc<Report>,
    remote: &Remote,
    source: &RemoteSource,
    call: ChannelCall,
) -> Result<Sums, Trouble> {
    let ChannelCall { channel, done, .. } = call;
    let mut rx = channel.rx;
    let mut lines = Lines::new();
    let mut moved = 0;
    while let Ok(Some(chunk)) = rx.recv().await {
        lines.push(chunk.bytes);
        while let Some(told) = lines
            .next_value::<Told>()
            .map_err(|error| remote.nonsense(&error.to_string()))?
        {
            if let Some(progress) = told.progress {
                report.moved(progress.bytes.saturating_sub(moved));
                moved = moved.max(progress.bytes);
                continue;
            }
            let path = match told.path.as_deref() {
                None => continue,
                Some("") => RelPath::top(),
                Some(path) => {
                    RelPath::parse(path).map_err(|error| remote.nonsense(&error.to_string()))?
                }
            };
            let path = source.prefix.join(&path);
            match told.error {
                Some(error) if error.code == "NOT_A_FILE" => report.left_out(&path),
                Some(error) => report.failed(&path, &Problem::new(&error.code, error.message), 0),
                None => {
                    let kind = told.kind.unwrap_or(FileKind::File);
                    let done = Done {
                        path: path.as_str(),
                        kind,
                        bytes: told.bytes,
                        loses_bits: false,
                        is_told: true,
                    };
                    match told.skipped {
                        true => report.was_there(&done),
                        false => report.is_copied(&done),
                    }
                }
            }
        }
    }
    let result = done
        .await
        .and_then(|output| output.into_value())
        .map_err(|error| remote.of_entry(error))?;
    let bytes = result.get("bytes").and_then(Value::as_u64).unwrap_or(0);
    report.moved(bytes.saturating_sub(moved));
    Ok(Sums::default())
}

/// The public key of a node: what the node before it on the way knows.
async fn node_id(app: &App, remote: &Remote) -> Result<Option<String>, Trouble> {
    let home = app.home().await?;
    let Some((last, before)) = remote.route.split_last() else {
        return Ok(Some(home.runtime().node_id.clone()));
    };
    let RouteStep::Peer(peer) = last else {
        return Ok(None);
    };
    let asked = super::plan::remote(app, &before.to_vec()).await?;
    let shown = asked
        .patiently("peers/show", &json!({ "peer": peer }))
        .await;
    let id = shown
        .ok()
        .and_then(|shown| Some(shown.get("node_id")?.as_str()?.to_owned()));
    Ok(id)
}

/// Whether a file of the same node is copied there, whatever its size.
pub(super) fn is_job(entry: &Entry, differs: Differs, target: &Target) -> bool {
    entry.kind == FileKind::File
        && differs != Differs::Attributes
        && is_within(entry, target).is_some()
}
