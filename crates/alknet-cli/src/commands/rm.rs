//! `alknet rm`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace, RemotePlace,
        expand::Expansion,
        place::PLACES_HELP,
        remote::{PAGE_ENTRIES, Remote, Tally},
        text::shown,
    },
    hint::quote,
    node_access::{CallError, ErrorCode, FileKind, FilePath},
    prompt,
};
use clap::{Args, ValueHint};
use futures::stream::{FuturesUnordered, StreamExt};
use serde::Deserialize;
use serde_json::json;
use std::ffi::OsString;

const EXAMPLES: &str = "\
A link is removed itself, never what it leads to. An empty directory goes
without -r. A bucket is not removed. Hidden files match no `*`.

Examples:
  alknet rm nas:www/old.html
  alknet rm 'nas:logs/2025-*.log' --dry-run
  alknet rm -r nas:www/cache --yes";

/// Removals under way at a time.
const REMOVALS_MAX: usize = 16;
/// Places that a question names.
const NAMED_MAX: usize = 5;

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct RmArgs {
    /// Files, links, empty directories, or patterns of them
    #[arg(value_name = "PLACE", required = true, value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Directories with all that is in them; on a terminal it asks
    #[arg(short, long)]
    recursive: bool,
    /// What is not there is no failure; nothing is asked
    #[arg(short, long)]
    force: bool,
    /// Removes nothing, and prints what would be
    #[arg(long)]
    dry_run: bool,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

impl RmArgs {
    /// `-f` is asked nothing, as by `rm` of coreutils.
    fn must_ask(&self) -> bool {
        self.recursive && !self.force && !self.yes && !self.dry_run
    }
}

pub(crate) async fn run(app: &App, args: RmArgs) -> Result<Exit, Failure> {
    let places = FilePlace::parse_all_remote(&args.places)?;
    for place in &places {
        refuse_bucket(place)?;
    }
    if args.must_ask() {
        ask(app, &args, &places).await?;
    }
    let mut removing = Removing {
        app,
        args,
        tally: Tally::default(),
        is_matched: false,
    };
    for place in &places {
        let remote = Remote::at(app, &place.route).await?;
        removing.place(&remote, place).await?;
    }
    Ok(removing.tally.exit())
}

/// A bucket goes by the configuration only.
fn refuse_bucket(place: &RemotePlace) -> Result<(), Failure> {
    if place.is_pattern() {
        return Ok(());
    }
    let is_root = match place.is_all_buckets() {
        true => true,
        false => place.file()?.names().is_empty(),
    };
    if !is_root {
        return Ok(());
    }
    let message = format!("`{place}` is a bucket, and is not removed");
    let failure = Failure::usage(message);
    Err(match place.literal() {
        Some(bucket) => failure.hint(format!(
            "what is in it: alknet rm -r {}",
            quote(&format!("{}*", slashed(&place.route, &bucket)))
        )),
        None => failure,
    })
}

fn slashed(route: &crate::node_access::Route, file: &FilePath) -> String {
    format!("{}/", crate::files::text::place_text(route, file))
}

async fn ask(app: &App, args: &RmArgs, places: &[RemotePlace]) -> Result<(), Failure> {
    if !app.out.can_ask() {
        let message = "-r removes all that is in a directory, and nobody can be asked here";
        let words: Vec<String> = args
            .places
            .iter()
            .map(|place| quote(&shown(&place.to_string_lossy())))
            .collect();
        let command = format!("use --yes: alknet rm -r --yes {}", words.join(" "));
        return Err(Failure::usage(message).hint(command));
    }
    match prompt::confirm(&question(places)).await? {
        true => Ok(()),
        false => Err(Failure::local("nothing was removed")),
    }
}

fn question(places: &[RemotePlace]) -> String {
    let mut named: Vec<String> = places
        .iter()
        .take(NAMED_MAX)
        .map(|place| format!("`{place}`"))
        .collect();
    if places.len() > NAMED_MAX {
        named.push(format!("{} more", places.len() - NAMED_MAX));
    }
    let them = match places {
        [one] if !one.is_pattern() => "it",
        _ => "them",
    };
    format!("remove {} with all that is in {them}?", named.join(", "))
}

struct Removing<'a> {
    app: &'a App,
    args: RmArgs,
    tally: Tally,
    /// A pattern found it: what is gone by now was in a directory that was
    /// found too, or somebody else was quicker.
    is_matched: bool,
}

#[derive(Debug, Deserialize)]
struct Removed {
    #[serde(default)]
    files: u64,
    #[serde(default)]
    directories: u64,
}

type Outcome = (FilePath, Result<Removed, CallError>);

impl Removing<'_> {
    async fn place(&mut self, remote: &Remote<'_>, place: &RemotePlace) -> Result<(), Failure> {
        if !place.is_pattern() {
            let file = place.file()?;
            return self.file(remote, file).await;
        }
        let mut expansion = Expansion::of(remote.clone(), place);
        let mut under_way = FuturesUnordered::new();
        let mut found_any = false;
        while let Some(found) = expansion.next().await {
            let found = match found {
                Ok(found) => found,
                Err(not) => {
                    self.is_matched = found_any;
                    found_any = true;
                    self.failed(remote, not.error, &not.file).await;
                    continue;
                }
            };
            (found_any, self.is_matched) = (true, true);
            if self.args.dry_run {
                self.would_remove(remote, found.file, Some(found.stat.kind))
                    .await?;
                continue;
            }
            while under_way.len() >= REMOVALS_MAX {
                if let Some(outcome) = under_way.next().await {
                    self.ended(remote, outcome).await?;
                }
            }
            under_way.push(remove(remote, found.file, self.args.recursive));
        }
        while let Some(outcome) = under_way.next().await {
            self.ended(remote, outcome).await?;
        }
        drop(under_way);
        self.is_matched = false;
        match (found_any, place.literal()) {
            (false, Some(file)) => self.literal(remote, place, file).await,
            _ => Ok(()),
        }
    }

    /// A pattern that means nothing may be a name.
    async fn literal(
        &mut self,
        remote: &Remote<'_>,
        place: &RemotePlace,
        file: FilePath,
    ) -> Result<(), Failure> {
        let is_there = remote.stat(&file, false).await.is_ok();
        if is_there {
            return self.file(remote, file).await;
        }
        if !self.args.force {
            let message = format!("`{place}` matches nothing");
            let failure = Failure::new(Exit::FAILED, "NO_SUCH_FILE", message);
            self.tally.failed(self.app, &failure);
        }
        Ok(())
    }

    async fn file(&mut self, remote: &Remote<'_>, file: FilePath) -> Result<(), Failure> {
        if self.args.dry_run {
            return self.would_remove(remote, file, None).await;
        }
        let outcome = remove(remote, file, self.args.recursive).await;
        self.ended(remote, outcome).await
    }

    async fn failed(&mut self, remote: &Remote<'_>, error: CallError, file: &FilePath) {
        let is_gone = &*error.code == "NO_SUCH_FILE";
        if is_gone && (self.args.force || self.is_matched) {
            return;
        }
        let failure = remote.explain(error, Some(file)).await;
        self.tally.failed(self.app, &failure);
    }

    async fn ended(
        &mut self,
        remote: &Remote<'_>,
        (file, outcome): Outcome,
    ) -> Result<(), Failure> {
        match outcome {
            Err(error) => self.failed(remote, error, &file).await,
            Ok(removed) => {
                self.tally.done();
                let place = remote.text(&file);
                if self.app.out.json {
                    let line = json!({
                        "place": place, "file": file,
                        "files": removed.files, "directories": removed.directories,
                    });
                    self.app.out.json_line(&line)?;
                } else if self.app.verbose > 0 {
                    self.app.out.say(&format!("removed `{place}`"));
                }
            }
        }
        Ok(())
    }

    /// Prints what would go: the place, and with `-r` all below it.
    async fn would_remove(
        &mut self,
        remote: &Remote<'_>,
        file: FilePath,
        kind: Option<FileKind>,
    ) -> Result<(), Failure> {
        let kind = match kind {
            Some(kind) => kind,
            None => match kind_of(remote, &file).await {
                Ok(kind) => kind,
                Err(error) => {
                    self.failed(remote, error, &file).await;
                    return Ok(());
                }
            },
        };
        if kind == FileKind::Directory && !self.args.recursive {
            return match remote.page(&file, None, 1).await {
                Ok(page) if page.entries.is_empty() && page.next.is_none() => {
                    self.tally.done();
                    self.would(remote, &file, kind)
                }
                Ok(_) => {
                    let message = format!("`{file}`: it is not empty");
                    let error = CallError::domain("DIRECTORY_NOT_EMPTY", message);
                    self.failed(remote, error, &file).await;
                    Ok(())
                }
                Err(error) => {
                    self.failed(remote, error, &file).await;
                    Ok(())
                }
            };
        }
        self.tally.done();
        if kind != FileKind::Directory {
            return self.would(remote, &file, kind);
        }
        self.would_remove_tree(remote, file).await
    }

    async fn would_remove_tree(
        &mut self,
        remote: &Remote<'_>,
        top: FilePath,
    ) -> Result<(), Failure> {
        let mut directories = vec![(top, None::<String>)];
        while let Some((directory, from)) = directories.pop() {
            if from.is_none() {
                self.would(remote, &directory, FileKind::Directory)?;
            }
            let page = match remote.page(&directory, from.as_deref(), PAGE_ENTRIES).await {
                Ok(page) => page,
                Err(error) => {
                    self.failed(remote, error, &directory).await;
                    continue;
                }
            };
            if page.next.is_some() {
                directories.push((directory.clone(), page.next));
            }
            for entry in page.entries {
                let Ok(file) = directory.join(entry.name) else {
                    continue;
                };
                match entry.stat.kind {
                    FileKind::Directory => directories.push((file, None)),
                    kind => self.would(remote, &file, kind)?,
                }
            }
        }
        Ok(())
    }

    fn would(&self, remote: &Remote<'_>, file: &FilePath, kind: FileKind) -> Result<(), Failure> {
        let place = remote.text(file);
        match self.app.out.json {
            true => {
                let line = json!({ "place": place, "file": file, "kind": kind });
                self.app.out.json_line(&line)
            }
            false => self.app.out.text(&place),
        }
    }
}

/// What kind of thing it is, for those also who may list and not read.
async fn kind_of(remote: &Remote<'_>, file: &FilePath) -> Result<FileKind, CallError> {
    match remote.stat(file, false).await {
        Ok(stat) => Ok(stat.stat.kind),
        Err(error) if error.is(ErrorCode::Forbidden) => match remote.entry(file).await {
            Ok(Some(entry)) => Ok(entry.stat.kind),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

async fn remove(remote: &Remote<'_>, file: FilePath, recursive: bool) -> Outcome {
    let input = json!({ "file": file, "recursive": recursive });
    let removed = remote.ask("fs/remove", &input).await;
    (file, removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;
    use std::ffi::OsStr;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RmArgs,
    }

    #[test]
    fn only_recursion_that_is_not_forced_asks() {
        let asks = |flags: &[&str]| {
            let words = ["rm", ":b/x"].iter().chain(flags);
            Line::try_parse_from(words).unwrap().args.must_ask()
        };
        assert!(asks(&["-r"]));
        for flags in [&["-r", "-f"][..], &["-rf"], &["-r", "--yes"], &["-f"], &[]] {
            assert!(!asks(flags), "{flags:?}");
        }
    }

    #[test]
    fn the_question_counts_what_it_names() {
        let asked = |given: &[&str]| {
            let place = |one: &&str| FilePlace::parse_remote(OsStr::new(one)).unwrap();
            question(&given.iter().map(place).collect::<Vec<_>>())
        };
        assert_eq!(asked(&[":b/x"]), "remove `:b/x` with all that is in it?");
        assert_eq!(asked(&[":b/*"]), "remove `:b/*` with all that is in them?");
        assert_eq!(
            asked(&[":b/x", ":b/y"]),
            "remove `:b/x`, `:b/y` with all that is in them?"
        );
        assert_eq!(
            asked(&[":b/1", ":b/2", ":b/3", ":b/4", ":b/5", ":b/6"]),
            "remove `:b/1`, `:b/2`, `:b/3`, `:b/4`, `:b/5`, 1 more with all that is in them?"
        );
    }
}
