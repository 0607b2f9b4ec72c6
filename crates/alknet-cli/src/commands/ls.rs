//! `alknet ls`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace, RemotePlace,
        expand::{Expansion, Found},
        place::PLACES_HELP,
        remote::{PAGE_ENTRIES, Remote, Tally},
        rows::{Row, Rows, Style},
        text::{route_text, shown, shown_name, size},
    },
    node_access::{BucketInfo, CallError, ErrorCode, FileKind, FilePath, Route},
    table::Table,
};
use clap::{ArgAction, Args, ValueHint};
use serde_json::json;
use std::ffi::OsString;

/// Entries that are held to be sorted; more are shown as they come.
const SORTED_MAX: usize = 20_000;

const EXAMPLES: &str = "\
Names are sorted by their bytes; more than 20,000 are shown as they come, and
`-U` does not wait for any. Times are UTC. With --json each entry is one line,
hidden ones too.

Examples:
  alknet ls nas:                        the buckets of `nas`
  alknet ls -lh nas:www/public
  alknet ls -R 'nas:www/**/*.html' --json";

#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct LsArgs {
    /// Files, directories, patterns, or `PEER:` for its buckets; `:` if not given
    #[arg(value_name = "PLACE", value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Permissions, links, owner, group, bytes and time of each
    #[arg(short)]
    long: bool,
    /// Also names that begin with a dot
    #[arg(short)]
    all: bool,
    /// Also what is in directories, all the way down; links are not followed
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Directories and links themselves, not what is in them
    #[arg(short, long)]
    directory: bool,
    /// Sizes as `1.5K`, powers of 1024
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// The newest first
    #[arg(short = 't', conflicts_with_all = ["by_size", "unsorted"])]
    by_time: bool,
    /// The largest first
    #[arg(short = 'S', conflicts_with = "unsorted")]
    by_size: bool,
    /// In reverse
    #[arg(short, long, conflicts_with = "unsorted")]
    reverse: bool,
    /// As the disk has them, at once
    #[arg(short = 'U')]
    unsorted: bool,
    /// One name a line, as when the output is no terminal
    #[arg(short = '1')]
    one: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

pub(crate) async fn run(app: &App, args: LsArgs) -> Result<Exit, Failure> {
    let places = match args.places.is_empty() {
        true => vec![RemotePlace::buckets(Route::new())],
        false => FilePlace::parse_all_remote(&args.places)?,
    };
    let has_headings = places.len() > 1 || args.recursive;
    let style = match (app.out.json, args.long) {
        (true, _) => Style::Json,
        (false, true) => Style::Long,
        (false, false) if args.one => Style::Lines,
        (false, false) => Style::Columns,
    };
    let mut listing = Listing {
        app,
        rows: Rows::new(app.out, style, args.human_readable),
        args,
        tally: Tally::default(),
        has_headings,
    };
    for place in places {
        let remote = Remote::at(app, &place.route).await?;
        listing.place(&remote, &place).await?;
    }
    Ok(listing.tally.exit())
}

struct Listing<'a> {
    app: &'a App,
    args: LsArgs,
    rows: Rows,
    tally: Tally,
    /// Directories are named above what is in them.
    has_headings: bool,
}

/// What is left to do of a recursive listing.
enum Work {
    Directory(FilePath),
    /// The directories in one that was too long to be held.
    Within(FilePath),
}

impl Listing<'_> {
    async fn place(&mut self, remote: &Remote<'_>, place: &RemotePlace) -> Result<(), Failure> {
        if place.is_all_buckets() {
            return self.buckets(remote).await;
        }
        if place.is_pattern() {
            return self.pattern(remote, place).await;
        }
        let file = place.file()?;
        if self.args.directory {
            return self.single(remote, &file).await;
        }
        match self.directory(remote, &file).await? {
            Some(error) if &*error.code == "NOT_A_DIRECTORY" && !place.is_directory => {
                self.single(remote, &file).await
            }
            Some(error) => self.fail(remote, error, &file).await,
            None => {
                self.tally.done();
                Ok(())
            }
        }
    }

    async fn fail(
        &mut self,
        remote: &Remote<'_>,
        error: CallError,
        file: &FilePath,
    ) -> Result<(), Failure> {
        self.rows.flush()?;
        let failure = remote.explain(error, Some(file)).await;
        self.tally.failed(self.app, &failure);
        Ok(())
    }

    /// The buckets of a node.
    async fn buckets(&mut self, remote: &Remote<'_>) -> Result<(), Failure> {
        let found = match remote.buckets().await {
            Ok(found) => found,
            Err(error) => {
                let failure = remote.explain(error, None).await;
                self.tally.failed(self.app, &failure);
                return Ok(());
            }
        };
        self.tally.done();
        if self.app.out.json {
            for bucket in &found {
                let mut line = json!(bucket);
                line["place"] = json!(format!("{}:{}", route_text(&remote.route), bucket.name));
                self.app.out.json_line(&line)?;
            }
            return Ok(());
        }
        if found.is_empty() {
            self.app
                .out
                .say("there are no buckets in which you may list anything");
        }
        if self.has_headings {
            self.rows
                .heading(&format!("{}:", route_text(&remote.route)))?;
        }
        if self.args.long && !found.is_empty() {
            let table = buckets_table(&found, self.args.human_readable);
            return self.app.out.text(&table.render(self.app.out.width()));
        }
        self.rows
            .names(found.iter().map(|bucket| shown(&bucket.name)).collect())
    }

    /// One entry itself.
    async fn single(&mut self, remote: &Remote<'_>, file: &FilePath) -> Result<(), Failure> {
        let found = match remote.stat(file, false).await {
            Ok(stat) => Ok(Some((stat.stat, stat.target))),
            // Who may only list finds it in its directory.
            Err(error) if error.is(ErrorCode::Forbidden) => match remote.entry(file).await {
                Ok(Some(entry)) => Ok(Some((entry.stat, entry.target))),
                _ => Err(error),
            },
            Err(error) => Err(error),
        };
        match found {
            Ok(Some((stat, target))) => {
                self.tally.done();
                let file = file.clone();
                let row = self.named(remote, Found { file, stat, target });
                self.rows.print(vec![row])?;
                self.rows.flush()
            }
            Ok(None) => Ok(()),
            Err(error) => self.fail(remote, error, file).await,
        }
    }

    /// A row that is shown by the whole of its place.
    fn named(&self, remote: &Remote<'_>, found: Found) -> Row {
        let place = remote.text(&found.file);
        Row {
            shown: place.clone(),
            place,
            file: found.file,
            stat: found.stat,
            target: found.target,
        }
    }

    /// What a pattern means: files first, then what is in the directories.
    async fn pattern(&mut self, remote: &Remote<'_>, place: &RemotePlace) -> Result<(), Failure> {
        let mut expansion = Expansion::of(remote.clone(), place);
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let (mut count, mut is_sorted) = (0_usize, !self.args.unsorted);
        let mut has_failed = false;
        self.has_headings = true;
        while let Some(found) = expansion.next().await {
            let found = match found {
                Ok(found) => found,
                Err(not) => {
                    has_failed = true;
                    self.fail(remote, not.error, &not.file).await?;
                    continue;
                }
            };
            self.tally.done();
            count += 1;
            if found.stat.kind == FileKind::Directory && !self.args.directory {
                directories.push(found.file);
            } else {
                files.push(self.named(remote, found));
            }
            if is_sorted && count > SORTED_MAX {
                self.say_unsorted(&place.to_string());
                is_sorted = false;
            }
            if !is_sorted && files.len() + directories.len() >= PAGE_ENTRIES {
                self.rows.print(std::mem::take(&mut files))?;
                self.directories(remote, std::mem::take(&mut directories))
                    .await?;
            }
        }
        if count == 0 && !has_failed {
            return self.no_match(remote, place).await;
        }
        if is_sorted {
            self.sort(&mut files);
            directories.sort();
        }
        self.rows.print(files)?;
        self.rows.flush()?;
        self.directories(remote, directories).await
    }

    /// A pattern that means nothing may be a name.
    async fn no_match(&mut self, remote: &Remote<'_>, place: &RemotePlace) -> Result<(), Failure> {
        let Some(file) = place.literal() else {
            return Ok(());
        };
        if remote.stat(&file, false).await.is_ok() {
            return self.single(remote, &file).await;
        }
        let message = format!("`{place}` matches nothing");
        let failure = Failure::new(Exit::FAILED, "NO_SUCH_FILE", message);
        self.tally.failed(self.app, &failure);
        Ok(())
    }

    async fn directories(
        &mut self,
        remote: &Remote<'_>,
        directories: Vec<FilePath>,
    ) -> Result<(), Failure> {
        for file in directories {
            if let Some(error) = self.directory(remote, &file).await? {
                self.fail(remote, error, &file).await?;
            }
        }
        Ok(())
    }

    /// What is in a directory, and below it if asked for; the error if it
    /// cannot be listed itself.
    async fn directory(
        &mut self,
        remote: &Remote<'_>,
        file: &FilePath,
    ) -> Result<Option<CallError>, Failure> {
        let mut work = Vec::new();
        if let Err(error) = self.entries(remote, file, &mut work).await? {
            return Ok(Some(error));
        }
        while let Some(next) = work.pop() {
            match next {
                Work::Directory(file) => {
                    let listed = self.entries(remote, &file, &mut work).await?;
                    if let Err(error) = listed {
                        self.fail(remote, error, &file).await?;
                    }
                }
                Work::Within(file) => self.within(remote, &file).await?,
            }
        }
        Ok(None)
    }

    /// Shows one directory; its directories become work.
    async fn entries(
        &mut self,
        remote: &Remote<'_>,
        directory: &FilePath,
        work: &mut Vec<Work>,
    ) -> Result<Result<(), CallError>, Failure> {
        let mut is_sorted = !self.args.unsorted;
        let mut rows: Vec<Row> = Vec::new();
        let mut from = None;
        let mut is_named = false;
        loop {
            let page = match remote.page(directory, from.as_deref(), PAGE_ENTRIES).await {
                Ok(page) => page,
                Err(error) => {
                    self.rows.print(rows)?;
                    self.rows.flush()?;
                    return Ok(Err(error));
                }
            };
            if self.has_headings && !is_named {
                is_named = true;
                self.rows.heading(&format!("{}:", remote.text(directory)))?;
            }
            let is_shown =
                |name: &[u8]| self.args.all || self.app.out.json || name.first() != Some(&b'.');
            for entry in page.entries {
                let Ok(file) = directory.join(entry.name.clone()) else {
                    continue;
                };
                if is_shown(entry.name.as_bytes()) {
                    rows.push(Row {
                        shown: shown_name(&entry.name),
                        place: match self.app.out.json {
                            true => remote.text(&file),
                            false => String::new(),
                        },
                        file,
                        stat: entry.stat,
                        target: entry.target,
                    });
                }
            }
            from = page.next;
            if is_sorted && rows.len() > SORTED_MAX {
                self.say_unsorted(&remote.text(directory));
                is_sorted = false;
            }
            if !is_sorted || from.is_none() {
                if is_sorted {
                    self.sort(&mut rows);
                    self.remember(&rows, work);
                }
                self.rows.print(std::mem::take(&mut rows))?;
            }
            if from.is_none() {
                break;
            }
        }
        if !is_sorted && self.args.recursive {
            work.push(Work::Within(directory.clone()));
        }
        self.rows.flush()?;
        Ok(Ok(()))
    }

    /// The directories in a page that was shown, the first on top.
    fn remember(&self, rows: &[Row], work: &mut Vec<Work>) {
        if self.args.recursive {
            let directories = rows.iter().rev();
            let directories = directories.filter(|row| row.stat.kind == FileKind::Directory);
            work.extend(directories.map(|row| Work::Directory(row.file.clone())));
        }
    }

    /// Goes once more through a directory that could not be held, for the
    /// directories in it.
    async fn within(&mut self, remote: &Remote<'_>, directory: &FilePath) -> Result<(), Failure> {
        let mut from = None;
        loop {
            let page = match remote.page(directory, from.as_deref(), PAGE_ENTRIES).await {
                Ok(page) => page,
                Err(error) => return self.fail(remote, error, directory).await,
            };
            let all = self.args.all || self.app.out.json;
            let is_shown = |name: &[u8]| all || name.first() != Some(&b'.');
            for entry in page.entries {
                if entry.stat.kind == FileKind::Directory
                    && is_shown(entry.name.as_bytes())
                    && let Ok(file) = directory.join(entry.name)
                    && let Some(error) = Box::pin(self.directory(remote, &file)).await?
                {
                    self.fail(remote, error, &file).await?;
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    fn sort(&self, rows: &mut [Row]) {
        rows.sort_by(|a, b| {
            let by_key = match (self.args.by_time, self.args.by_size) {
                (true, _) => b.stat.mtime.cmp(&a.stat.mtime),
                (_, true) => b.stat.bytes.cmp(&a.stat.bytes),
                _ => std::cmp::Ordering::Equal,
            };
            by_key.then_with(|| a.file.cmp(&b.file))
        });
        if self.args.reverse {
            rows.reverse();
        }
    }

    fn say_unsorted(&self, place: &str) {
        self.app.out.say(&format!(
            "`{place}` has more than {SORTED_MAX} entries: they are shown as they come"
        ));
    }
}

fn buckets_table(buckets: &[BucketInfo], is_short: bool) -> Table {
    let bytes = |bytes: u64| match is_short {
        true => size(bytes),
        false => bytes.to_string(),
    };
    let mut table = Table::new(&["BUCKET", "KIND", "ACCESS", "QUOTA", "STATE"]);
    for bucket in buckets {
        let quota = match (bucket.quota_bytes, bucket.quota_entries) {
            (Some(most), Some(entries)) => format!("{}, {entries} entries", bytes(most)),
            (Some(most), None) => bytes(most),
            (None, Some(entries)) => format!("{entries} entries"),
            (None, None) => String::new(),
        };
        let state = bucket.unavailable.as_deref();
        table.row([
            bucket.name.clone(),
            json!(bucket.kind).as_str().unwrap_or_default().to_owned(),
            if bucket.read_only {
                "read"
            } else {
                "read, write"
            }
            .to_owned(),
            quota,
            state.map_or_else(|| "ok".to_owned(), |why| format!("unavailable: {why}")),
        ]);
    }
    table
}
