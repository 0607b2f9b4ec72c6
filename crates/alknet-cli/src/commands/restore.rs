//! `alknet restore`.

use crate::{
    app::App,
    commands::{call::read_stdin, passphrase, progress::Progress},
    failure::{Exit, Failure},
    node_access::{self, Secret, backup, sentence},
    prompt,
    signals::StopSignals,
    table,
};
use clap::Args;
use serde_json::json;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
Only into an empty or missing data directory; nothing is ever overwritten. The node
has the same id, the same peers and the same log as when the backup was taken; what
changed later is not there. Open invites are revoked, since they may have been used.

End the node that the backup is of, and never run the two at once.

Examples:
  alknet restore home.backup --words - < words.txt
  alknet restore --data-dir /srv/alknet home.backup --passphrase-file phrase.txt")]
pub(crate) struct RestoreArgs {
    /// The backup; `-` is standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Opens the keys with the node's words, read from standard input
    #[arg(long, value_name = "-", conflicts_with = "passphrase_file")]
    words: Option<String>,
    /// Opens the keys with the passphrase in this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Owned, for a thread of its own.
enum Opener {
    Words(Secret),
    Passphrase(Secret),
}

pub(crate) async fn run(app: &App, args: RestoreArgs) -> Result<Exit, Failure> {
    let is_stdin = args.file == Path::new("-");
    if is_stdin && args.words.is_some() {
        return Err(Failure::usage(
            "the backup and the words cannot both come from standard input",
        )
        .hint("give the backup as a file"));
    }
    if is_remote(&args.file) {
        let message = format!(
            "`{}` has a colon, as files of nodes do",
            args.file.display()
        );
        return Err(Failure::usage(message)
            .hint(format!("a backup of that name: ./{}", args.file.display())));
    }
    let opener = opener(app, &args, is_stdin).await?;
    let source: Box<dyn Read + Send> = match is_stdin {
        true => Box::new(io::stdin()),
        false => Box::new(open(&args.file)?),
    };
    let mut stop = StopSignals::listen()?;
    let stopped = Arc::new(AtomicBool::new(false));
    let source = BufReader::new(Stoppable(source, stopped.clone()));
    let (dir, total) = (app.dir().to_owned(), length(&args.file));
    let mut progress = Progress::of(app, "restore", total);
    let restoring = tokio::task::spawn_blocking(move || {
        let secret = match &opener {
            Opener::Words(words) => backup::RestoreSecret::Words(text(words)),
            Opener::Passphrase(phrase) => backup::RestoreSecret::Passphrase(text(phrase)),
        };
        let now = node_access::now();
        backup::restore(&dir, source, secret, now, &mut |bytes| {
            progress.moved(bytes)
        })
    });
    tokio::pin!(restoring);
    let mut ended = None;
    let restored = tokio::select! {
        restored = &mut restoring => restored,
        exit = stop.next() => {
            // It cleans up before it ends.
            stopped.store(true, Ordering::Relaxed);
            ended = Some(exit);
            tokio::select! {
                restored = &mut restoring => restored,
                // It waits for its input, and nobody wants to.
                exit = stop.next() => return Err(Failure::interrupted(exit)),
            }
        }
    };
    let restored =
        restored.map_err(|error| Failure::local(format!("failed to restore: {error}")))?;
    match (restored, ended) {
        (Ok(restored), _) => report(app, &restored).map(|()| Exit::FINE),
        (Err(_), Some(exit)) => Err(Failure::interrupted(exit)),
        (Err(error), None) => Err(failure(&error)),
    }
}

/// A file of a node always contains a colon; a path says otherwise with a
/// slash before it.
fn is_remote(file: &Path) -> bool {
    let text = file.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    first.contains(':')
}

fn failure(error: &backup::RestoreError) -> Failure {
    Failure::new(Exit::FAILED, error.code(), sentence(error)).hint_if(error.hint())
}

fn open(file: &Path) -> Result<File, Failure> {
    File::open(file).map_err(|error| Failure::io("read", file, &error))
}

/// 0 if nobody knows.
fn length(file: &Path) -> u64 {
    file.metadata().map_or(0, |meta| meta.len())
}

/// What opens the keys: as said, or asked for.
async fn opener(app: &App, args: &RestoreArgs, is_stdin: bool) -> Result<Opener, Failure> {
    if let Some(file) = &args.passphrase_file {
        return Ok(Opener::Passphrase(passphrase::read_passphrase_file(file)?));
    }
    if args.words.as_deref().is_some_and(|words| words != "-") {
        return Err(passphrase::words_in_command("--words -"));
    }
    if args.words.is_some() {
        let words = match app.out.can_ask() {
            true => prompt::ask("the words: ".into()).await?,
            false => read_stdin().await?,
        };
        return Ok(Opener::Words(Secret::new(words)));
    }
    if is_stdin {
        return Err(
            Failure::usage("what opens the keys is not said").hint("--passphrase-file FILE")
        );
    }
    let header = backup::Backup::open(BufReader::new(open(&args.file)?));
    let header = header.map_err(|error| failure(&error.into()))?;
    let is_needed = header.header().needs;
    match (is_needed, app.out.can_ask()) {
        (backup::Needs::Words, false) => Err(failure(&backup::RestoreError::NeedsWords)),
        (backup::Needs::Passphrase, false) => {
            let message = "the keys in this backup are sealed under a passphrase";
            Err(Failure::new(Exit::FAILED, "NEEDS_PASSPHRASE", message)
                .hint("--passphrase-file FILE, or --words - with the words on standard input"))
        }
        (backup::Needs::Words, true) => {
            let words = prompt::ask("the words of the node: ".into()).await?;
            Ok(Opener::Words(Secret::new(words)))
        }
        (backup::Needs::Passphrase, true) => {
            let text = passphrase::ask("the passphrase: ").await?;
            Ok(Opener::Passphrase(text))
        }
    }
}

/// Words and passphrases are text: that was checked where they were read.
fn text(secret: &Secret) -> &str {
    secret.expose_text().unwrap_or_default()
}

/// Fails to read once it is stopped.
struct Stoppable<R>(R, Arc<AtomicBool>);

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.1.load(Ordering::Relaxed) {
            true => Err(io::Error::other("stopped")),
            false => self.0.read(into),
        }
    }
}

fn report(app: &App, restored: &backup::RestoreReport) -> Result<(), Failure> {
    if app.out.json {
        let mut told = serde_json::to_value(restored).unwrap_or_default();
        told["data_dir"] = json!(app.dir());
        return app.out.json_line(&told);
    }
    app.out.text(&table::pairs(&[
        ("node id", restored.node_id.clone()),
        ("name", restored.name.clone()),
        ("as of", restored.taken_at.clone()),
        ("peers", restored.peers.to_string()),
        ("data", app.dir().display().to_string()),
    ]))?;
    app.out.say(
        "what changed later is not there: peers removed since are known again, keys revoked or \
         rotated since are good again; look through `alknet peers list` and `alknet keys list`",
    );
    if restored.invites_revoked > 0 {
        app.out.say(&format!(
            "{} invites were open and are revoked, since they may have been used",
            restored.invites_revoked
        ));
    }
    if restored.passphrase_lost {
        app.out.say(
            "a passphrase protected the keys, and a key file beside them does now, as after every \
             restore by words; a passphrase again: alknet vault passwd",
        );
    }
    app.out
        .say("end the node that this is a backup of: two with one id disturb each other");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_nodes_are_told_from_backups() {
        for (file, remote) in [
            (":www/index.html", true),
            ("nas:www/index.html", true),
            ("home.backup", false),
            ("./nas:www", false),
            ("/tmp/a:b", false),
            ("backups/a:b", false),
            ("-", false),
        ] {
            assert_eq!(is_remote(Path::new(file)), remote, "{file}");
        }
    }
}
