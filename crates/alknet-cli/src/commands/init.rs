//! `alknet init`.

use crate::{
    app::App,
    commands::{call::read_stdin, passphrase, settings, vault},
    failure::Failure,
    node_access::{self, InitReport, PeerId, Secret},
    prompt, table,
};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints the words once: they are kept nowhere, and with them, on any machine,
`alknet init --restore -` brings back the same node id. `alknet up` makes a data
directory by itself; this command is for doing so beforehand, or from words.")]
pub(crate) struct InitArgs {
    /// Brings a node back; the words are read from standard input
    #[arg(long, value_name = "-")]
    restore: Option<String>,
    /// How the node calls itself; the host's name if not given
    #[arg(long)]
    name: Option<String>,
    /// Protects the keys by a passphrase, which is asked for, and which `up`
    /// needs then; by a key file beside them if not given
    #[arg(long)]
    passphrase: bool,
    /// The same with the passphrase in this file, which others may not read
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
}

pub(crate) async fn run(app: &App, args: InitArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(PeerId::parse).transpose();
    let name = name.map_err(|error| Failure::usage(error.to_string()))?;
    if args.passphrase && !app.out.can_ask() {
        let message = "there is no terminal to ask for the passphrase on";
        return Err(Failure::usage(message).hint("--passphrase-file FILE"));
    }
    let words = match args.restore.as_deref() {
        None => None,
        // Not repeated: it may be the words.
        Some(other) if other != "-" => return Err(passphrase::words_in_command("--restore -")),
        Some(_) if app.out.can_ask() => Some(prompt::ask("the words: ".into()).await?),
        Some(_) => Some(read_stdin().await?),
    };
    let passphrase = match &args.passphrase_file {
        Some(path) => Some(passphrase::read_passphrase_file(path)?),
        None if args.passphrase => Some(vault::ask_new().await?),
        None => None,
    };
    let report = make(app, words, passphrase).await?;
    if let Some(name) = &name {
        settings::store_name(&node_access::config_path(app.dir()), name.as_str())?;
    }
    if app.out.json {
        let mut made = json!({ "node_id": report.node_id, "data_dir": app.dir() });
        if let Some(words) = &report.words {
            made["words"] = json!(words);
        }
        return app.out.json_line(&made);
    }
    let mut pairs = vec![
        ("node id", report.node_id.clone()),
        ("data", app.dir().display().to_string()),
    ];
    if let Some(words) = &report.words {
        pairs.push(("words", words.clone()));
        app.out
            .say("write the words down and keep them apart from this machine: they are shown once");
    }
    app.out.text(&table::pairs(&pairs))
}

/// Makes the data directory: key derivation is slow on purpose, and blocks.
pub(crate) async fn make(
    app: &App,
    words: Option<String>,
    passphrase: Option<Secret>,
) -> Result<InitReport, Failure> {
    let dir = app.dir().to_owned();
    let making = move || node_access::init(&dir, words.as_deref(), passphrase.as_ref());
    let made = tokio::task::spawn_blocking(making).await;
    made.map_err(|error| Failure::local(format!("failed to make the keys: {error}")))?
}

/// What `up` says about the words of a node that it has just made.
pub(crate) fn tell_words(app: &App, report: &InitReport) {
    let Some(words) = &report.words else { return };
    if app.out.terminal && app.out.attended && !app.out.json {
        app.out.say(&format!(
            "new keys; write these words down and keep them apart from this machine, they are \
             shown once:\n\n  {words}\n"
        ));
    } else {
        app.out.warn(
            "new keys were made and their words are not shown, since this is no terminal: keep a \
             copy of the data directory, or make the keys with `alknet init` next time",
        );
    }
}
