//! `alknet backup`.

use crate::{
    app::App,
    commands::{
        passphrase::read_passphrase_file,
        peers::bytes,
        progress::{Partial, Progress},
        settings,
    },
    failure::{Exit, Failure},
    node_access::{self, CallOptions, ChannelCall, Route, Secret, backup, parse_route, sentence},
    table,
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
Takes it of one moment, whether or not the node runs, and nobody waits for it. The
file is for its owner alone (mode 0600) and appears when it is whole.

Secrets are in it only sealed or hashed. A node whose keys a key file protects
needs its words to be restored, unless the backup was made with a passphrase;
a node with a passphrase needs that one. The rest of it (who is known, who did
what) is readable: keep it as you keep the data directory. Files in buckets, the
inbox among them, are not in it.

Examples:
  alknet backup home.backup
  alknet backup --passphrase-file phrase.txt home.backup
  alknet backup - | ssh nas 'cat > home.backup'
  alknet backup --on home home.backup")]
pub(crate) struct BackupArgs {
    /// Where to write it; `-` is standard output
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Replaces FILE if it exists
    #[arg(long)]
    force: bool,
    /// Seals the keys in it under the passphrase in this file, so that no words
    /// are needed to restore
    #[arg(long, value_name = "FILE", conflicts_with = "on")]
    passphrase_file: Option<PathBuf>,
    /// The peer whose backup it is, which must allow `node/backup`
    #[arg(long, value_name = "PEER[/PEER]")]
    on: Option<String>,
}

impl BackupArgs {
    fn is_stdout(&self) -> bool {
        self.file == Path::new("-")
    }
}

pub(crate) async fn run(app: &App, args: BackupArgs) -> Result<(), Failure> {
    let route = args.on.as_deref().map(parse_route).transpose();
    let route = route.map_err(|error| Failure::usage(error.to_string()))?;
    check_target(app, &args)?;
    if args.passphrase_file.is_some() {
        app.takes_no_key("backup --passphrase-file")?;
    }
    let passphrase = args.passphrase_file.as_deref().map(read_passphrase_file);
    let passphrase = passphrase.transpose()?;
    let vault = match passphrase {
        Some(passphrase) => Some(wrapped_vault(app.dir(), passphrase).await?),
        None => None,
    };
    let beside = match args.is_stdout() {
        true => app.dir().join("backup"),
        false => args.file.clone(),
    };
    let mut partial = Partial::create(&beside)?;
    let mut header = match &route {
        Some(route) => download(app, route.clone(), &mut partial).await?,
        None if node_access::is_running(app.dir()) => {
            download(app, Route::new(), &mut partial).await?
        }
        None => {
            app.takes_no_key("backup")?;
            copy(app, &mut partial).await?
        }
    };
    if let Some(vault) = vault {
        let mut whole = Partial::create(&beside)?;
        header = insert(app, partial.file(), &vault, whole.file())?;
        partial = whole;
    }
    if args.is_stdout() {
        return deliver(app, partial);
    }
    partial.place(&args.file, args.force)?;
    if route.is_none() {
        // Only `alknet doctor` misses it.
        let _ = backup::note_backup(app.dir(), node_access::now());
    }
    report(app, &args.file, &header)
}

/// Before anything is copied.
fn check_target(app: &App, args: &BackupArgs) -> Result<(), Failure> {
    if args.on.is_none() && !node_access::is_initialised(app.dir()) {
        let message = format!("`{}` holds no node", app.dir().display());
        return Err(Failure::local(message).hint("choose another --data-dir"));
    }
    if args.is_stdout() {
        if app.out.json {
            return Err(Failure::usage(
                "with `-` the backup is on standard output, where `--json` has no place",
            ));
        }
        if app.out.terminal {
            return Err(Failure::usage("a backup is not for a terminal")
                .hint("alknet backup FILE, or send it to a program: alknet backup - | ..."));
        }
        return Ok(());
    }
    if args.file.is_dir() {
        let message = format!("`{}` is a directory", args.file.display());
        return Err(Failure::usage(message));
    }
    if !args.force && args.file.symlink_metadata().is_ok() {
        return Err(exists(&args.file));
    }
    Ok(())
}

pub(super) fn exists(file: &Path) -> Failure {
    let message = format!("`{}` exists already", file.display());
    Failure::new(Exit::FAILED, "EXISTS", message).hint("--force replaces it")
}

/// The keys of this data directory under a passphrase. Slow on purpose.
async fn wrapped_vault(dir: &Path, passphrase: Secret) -> Result<Vec<u8>, Failure> {
    let dir = dir.to_owned();
    let wrapping = tokio::task::spawn_blocking(move || {
        node_access::wrapped_vault(&dir, passphrase.expose_text().unwrap_or_default())
    });
    wrapping
        .await
        .map_err(|error| Failure::local(format!("failed to seal the keys: {error}")))?
}

/// Asks a running node for it, and checks what comes.
async fn download(
    app: &App,
    route: Route,
    partial: &mut Partial,
) -> Result<backup::BackupHeader, Failure> {
    let home = app.home().await?;
    let options = CallOptions {
        route,
        ..CallOptions::default()
    };
    let opened = home.open("node/backup", json!({}), options).await;
    let ChannelCall {
        reply,
        mut channel,
        done,
        ..
    } = opened.map_err(|error| app.explain(home, &error))?;
    let coming = reply.into_value().unwrap_or_default();
    let total = coming.get("bytes").and_then(Value::as_u64);
    let mut progress = Progress::of(app, "backup", total.unwrap_or_default());
    channel.tx.end();
    loop {
        match channel.rx.recv().await {
            Ok(Some(chunk)) => {
                let written = partial.file().write_all(&chunk.bytes);
                written.map_err(|error| partial.failed(&error))?;
                progress.moved(chunk.bytes.len() as u64);
            }
            Ok(None) => break,
            // The result says why.
            Err(_) => break,
        }
    }
    drop(progress);
    done.await.map_err(|error| app.explain(home, &error))?;
    check(app, partial.file())
}

/// Reads it again from the disk to its end.
fn check(app: &App, file: &mut File) -> Result<backup::BackupHeader, Failure> {
    let checked = (|| {
        file.rewind().map_err(not_read)?;
        let mut backup = backup::Backup::open(std::io::BufReader::new(&mut *file))?;
        let mut progress = Progress::of(app, "check", backup.header().bytes());
        while backup
            .copy_next(&mut std::io::sink(), &mut |bytes| progress.moved(bytes))?
            .is_some()
        {}
        backup.finish()
    })();
    checked.map_err(|error| {
        Failure::local(format!(
            "the backup did not arrive whole: {}",
            sentence(&error)
        ))
    })
}

fn not_read(source: std::io::Error) -> backup::BackupError {
    backup::BackupError::Io {
        what: "read the backup",
        source,
    }
}

/// Takes it of a node that does not run.
async fn copy(app: &App, partial: &mut Partial) -> Result<backup::BackupHeader, Failure> {
    let stop = Stop(Arc::default());
    let name = settings::load_checked(&node_access::config_path(app.dir()), app.dir())
        .ok()
        .and_then(|config| config.name)
        .unwrap_or_default();
    let (dir, asked) = (app.dir().to_owned(), stop.0.clone());
    let preparing = tokio::task::spawn_blocking(move || {
        backup::prepare(&dir, &name, node_access::now(), &asked)
    });
    let prepared = preparing
        .await
        .map_err(|error| Failure::local(format!("failed to copy the store: {error}")))?;
    let mut prepared = prepared.map_err(|error| {
        let code = if error.is_no_room() {
            "NO_ROOM"
        } else {
            "BACKUP"
        };
        Failure::new(Exit::FAILED, code, sentence(&error)).hint_if(error.hint())
    })?;
    let header = prepared.header().clone();
    let mut progress = Progress::of(app, "backup", header.bytes());
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let read = prepared
            .read(&mut chunk)
            .map_err(|error| Failure::local(format!("failed to read the copy: {error}")))?;
        if read == 0 {
            return Ok(header);
        }
        let written = partial.file().write_all(&chunk[..read]);
        written.map_err(|error| partial.failed(&error))?;
        progress.moved(read as u64);
        // So that Ctrl-C is heard.
        tokio::task::yield_now().await;
    }
}

/// Ends a copy that nobody waits for any more.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes the backup again with the sealed keys in it.
fn insert(
    app: &App,
    from: &mut File,
    vault: &[u8],
    to: &mut File,
) -> Result<backup::BackupHeader, Failure> {
    let inserted = (|| {
        from.rewind().map_err(not_read)?;
        let mut progress = Progress::of(app, "keys", 0);
        let from = std::io::BufReader::new(from);
        backup::rewrite(from, vault, to, &mut |bytes| progress.moved(bytes))
    })();
    inserted.map_err(|error| {
        let code = if error.is_no_room() {
            "NO_ROOM"
        } else {
            "BACKUP"
        };
        Failure::new(Exit::FAILED, code, sentence(&error))
    })
}

/// Sends it to standard output.
fn deliver(app: &App, mut partial: Partial) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_left(),
        _ => Failure::local(format!("failed to write the output: {error}")),
    };
    let file = partial.file();
    file.rewind().map_err(failed)?;
    let mut stdout = std::io::stdout().lock();
    std::io::copy(file, &mut stdout).map_err(failed)?;
    stdout.flush().map_err(failed)?;
    app.out.say("the backup is whole");
    Ok(())
}

fn report(app: &App, file: &Path, header: &backup::BackupHeader) -> Result<(), Failure> {
    if app.out.json {
        return app.out.json_line(&json!({
            "file": file,
            "bytes": header.bytes(),
            "node_id": header.node_id,
            "name": header.name,
            "taken_at": header.taken_at,
            "release": header.release,
            "format": header.format,
            "store_format": header.store_format,
            "needs": header.needs,
            "files": header.files.iter().map(|file| &file.name).collect::<Vec<_>>(),
        }));
    }
    let needs = match header.needs {
        backup::Needs::Words => "the words of this node: they are in no backup",
        backup::Needs::Passphrase if header.key_file => {
            "the passphrase that this backup was made with, or the words"
        }
        backup::Needs::Passphrase => "the passphrase of the vault as of today, or the words",
    };
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let size = bytes(header.bytes() as f64);
    app.out.text(&table::pairs(&[
        ("backup", format!("{}, {size}", file.display())),
        ("of", format!("{} ({})", header.name, header.node_id)),
        ("taken", header.taken_at.clone()),
        ("a restore needs", needs.to_owned()),
    ]))
}
