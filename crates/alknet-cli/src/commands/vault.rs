//! `alknet vault`.

use crate::{
    app::App,
    commands::passphrase,
    failure::Failure,
    node_access::{self, Protection, Secret},
    output::cell,
    prompt, table,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
The vault holds what all keys of this node come from, and opens the secrets that
are stored. At rest it is protected by a key file beside it, so that the node
starts by itself, or by a passphrase.

  alknet vault passwd                    asks for a passphrase, which `up` needs then
  alknet vault passwd --no-passphrase    goes back to a key file
  alknet vault lock                      the node goes on; stored secrets stay shut")]
pub(crate) struct VaultArgs {
    #[command(subcommand)]
    command: VaultCommand,
}

#[derive(Debug, Subcommand)]
enum VaultCommand {
    /// Says what protects the vault, and whether it is locked
    Status,
    /// Changes what protects the vault at rest; a running node goes on
    Passwd(PasswdArgs),
    /// Makes the running node forget the keys that open stored secrets
    Lock,
    /// Gives the running node these keys back
    Unlock(OldArgs),
    /// Seals everything stored under a new version of the sealing key
    Rotate,
    /// Gives the node, which must be stopped, new words and new keys
    #[command(after_help = "\
For a node whose words or keys others may have seen. Prints the new words once.
Peers, grants, history and stored secrets stay. The node has another id
afterwards, which each of its peers must be told; open invites are void:

  alknet peers rotate NAME --node-id ID")]
    Replace(ReplaceArgs),
}

#[derive(Debug, Args)]
struct OldArgs {
    /// Reads the passphrase from a file, which others may not read; `-` is
    /// standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PasswdArgs {
    #[command(flatten)]
    old: OldArgs,
    /// Reads the new passphrase from a file, which others may not read
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Protects it by a key file from now on
    #[arg(long, conflicts_with = "new_passphrase_file")]
    no_passphrase: bool,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    #[command(flatten)]
    old: OldArgs,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(app: &App, args: VaultArgs) -> Result<(), Failure> {
    match args.command {
        VaultCommand::Status => status(app).await,
        VaultCommand::Passwd(args) => passwd(app, args).await,
        VaultCommand::Lock => {
            let reply = app.ask("vault/lock", json!({})).await?;
            show(app, &reply)
        }
        VaultCommand::Unlock(args) => unlock(app, args).await,
        VaultCommand::Rotate => rotate(app).await,
        VaultCommand::Replace(args) => replace(app, args).await,
    }
}

async fn status(app: &App) -> Result<(), Failure> {
    if node_access::is_running(app.dir()) {
        let reply = app.ask("vault/status", json!({})).await?;
        return show(app, &reply);
    }
    let protection = protection(app)?;
    if app.out.json {
        let status = json!({ "protection": protection.as_str() });
        return app.out.json_line(&status);
    }
    app.out.text(&table::pairs(&[
        ("protected by", in_words(protection.as_str())),
        ("node", "not running".into()),
    ]))
}

fn show(app: &App, reply: &Value) -> Result<(), Failure> {
    if app.out.json {
        return app.out.json_line(reply);
    }
    let locked = reply.get("locked") == Some(&json!(true));
    app.out.text(&table::pairs(&[
        ("protected by", in_words(&cell(reply.get("protection")))),
        ("locked", if locked { "yes" } else { "no" }.into()),
        ("key version", cell(reply.get("key_version"))),
        ("credentials", cell(reply.get("credentials"))),
    ]))
}

fn in_words(protection: &str) -> String {
    match protection {
        "key-file" => "a key file".into(),
        "passphrase" => "a passphrase".into(),
        other => other.into(),
    }
}

/// What protects the vault; a failure if there is none.
fn protection(app: &App) -> Result<Protection, Failure> {
    node_access::protection(app.dir())?.ok_or_else(|| {
        let message = format!("`{}` holds no node", app.dir().display());
        Failure::local(message).hint("alknet init")
    })
}

/// The passphrase of a vault that has one.
pub(crate) async fn old_passphrase(
    app: &App,
    file: Option<&PathBuf>,
) -> Result<Option<Secret>, Failure> {
    if node_access::protection(app.dir())? != Some(Protection::Passphrase) {
        return Ok(None);
    }
    match file {
        Some(path) => passphrase::read_given(path).await.map(Some),
        None if app.out.can_ask() => passphrase::ask("passphrase: ").await.map(Some),
        None => Err(Failure::new(
            crate::failure::Exit::FAILED,
            "PASSPHRASE_NEEDED",
            "the keys are protected by a passphrase, and there is no terminal to ask for it on",
        )
        .hint("--passphrase-file FILE")),
    }
}

/// A new passphrase, typed twice.
pub(crate) async fn ask_new() -> Result<Secret, Failure> {
    let first = passphrase::ask("new passphrase: ").await?;
    if first.is_empty() {
        return Err(Failure::usage("an empty passphrase protects nothing"));
    }
    let second = passphrase::ask("once more: ").await?;
    match first == second {
        true => Ok(first),
        false => Err(Failure::local("these were two different passphrases")),
    }
}

async fn passwd(app: &App, args: PasswdArgs) -> Result<(), Failure> {
    app.takes_no_key("vault passwd")?;
    protection(app)?;
    let old = old_passphrase(app, args.old.passphrase_file.as_ref()).await?;
    let new = match (&args.new_passphrase_file, args.no_passphrase) {
        (_, true) => None,
        (Some(path), _) => Some(passphrase::read_given(path).await?),
        (None, _) if app.out.can_ask() => Some(ask_new().await?),
        (None, _) => {
            return Err(
                Failure::usage("there is no terminal to ask for the new passphrase on")
                    .hint("--new-passphrase-file FILE, or --no-passphrase"),
            );
        }
    };
    let dir = app.dir().to_owned();
    let by_passphrase = new.is_some();
    let changing = move || node_access::protect(&dir, old.as_ref(), new.as_ref());
    let changed = tokio::task::spawn_blocking(changing).await;
    changed.map_err(|error| Failure::local(format!("failed to change it: {error}")))??;
    let protection = protection(app)?;
    if app.out.json {
        let changed = json!({ "protection": protection.as_str() });
        return app.out.json_line(&changed);
    }
    app.out.say(match by_passphrase {
        true => "the vault is protected by this passphrase; the next `alknet up` needs it",
        false => "the vault is protected by a key file beside it; `alknet up` needs nothing",
    });
    Ok(())
}

async fn unlock(app: &App, args: OldArgs) -> Result<(), Failure> {
    app.home().await?;
    let passphrase = old_passphrase(app, args.passphrase_file.as_ref()).await?;
    let input = match &passphrase {
        Some(secret) => json!({ "passphrase": secret.expose_text() }),
        None => json!({}),
    };
    drop(passphrase);
    let reply = app.ask("vault/unlock", input).await?;
    show(app, &reply)
}

async fn rotate(app: &App) -> Result<(), Failure> {
    let reply = app.ask("vault/rotate", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let count = |field: &str| cell(reply.get(field));
    app.out.say(&format!(
        "sealing key version {}; sealed anew: {}",
        count("key_version"),
        count("resealed")
    ));
    if reply.get("left") != Some(&json!(0)) {
        app.out.warn(&format!(
            "secrets that do not open, and were left as they are: {}",
            count("left")
        ));
    }
    Ok(())
}

const REPLACE_QUESTION: &str =
    "this node gets new words and another id, which every peer must be told; go on?";

async fn replace(app: &App, args: ReplaceArgs) -> Result<(), Failure> {
    app.takes_no_key("vault replace")?;
    protection(app)?;
    if node_access::is_running(app.dir()) {
        return Err(
            Failure::local("the node is running, and holds the keys it has now")
                .hint("alknet down"),
        );
    }
    if !args.yes {
        if !app.out.can_ask() {
            return Err(Failure::usage(
                "there is no terminal to ask on whether the node shall have another id",
            )
            .hint("--yes"));
        }
        if !prompt::confirm(REPLACE_QUESTION).await? {
            return Err(Failure::local("nothing was replaced"));
        }
    }
    let passphrase = old_passphrase(app, args.old.passphrase_file.as_ref()).await?;
    let next = node_access::prepare_replacement(app.dir(), passphrase).await?;
    let (words, old) = (next.words().to_owned(), next.old_node_id());
    let id = next.node_id();
    // The words come first: without them, the keys that follow could never be
    // brought back. If the rest fails, they are worth nothing, and that is said.
    let shown = match app.out.json {
        true => app
            .out
            .json_line(&json!({ "node_id": id, "old_node_id": old, "words": words })),
        false => app.out.text(&table::pairs(&[
            ("node id", id.clone()),
            ("before", old),
            ("words", words),
        ])),
    };
    if let Err(failure) = shown {
        // Nobody read them.
        if next.discard().is_err() {
            app.out.warn("the next start forgets the new words");
        }
        return Err(failure);
    }
    let done = node_access::replace(next).await.inspect_err(|_| {
        app.out.warn(
            "it is not known whether the words above hold: `alknet up` ends what was begun, and says which node it is",
        );
    })?;
    app.out.say(
        "write the words down and keep them apart from this machine: they are shown once, and those before are void",
    );
    app.out.say(&format!(
        "at each peer, with its name for this node: alknet peers rotate NAME --node-id {id}"
    ));
    if done.left > 0 {
        app.out.warn(&format!(
            "secrets that do not open, and were left as they are: {}",
            done.left
        ));
    }
    Ok(())
}
