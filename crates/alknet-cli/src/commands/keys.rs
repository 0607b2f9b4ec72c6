//! `alknet keys`, and the key that a command acts with.

use crate::{
    app::App,
    cli::parse_duration,
    commands::progress::Partial,
    duration,
    failure::{Exit, Failure},
    hint::quote,
    node_access::{ApiKey, GrantTarget, Secret},
    output::cell,
    table::{Table, one_line},
    when,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, Args)]
#[command(after_help = "\
The command line acts as the owner, who may do everything. Give an agent, or a
script, a key instead, and it may do what the key may and no more:

  alknet keys create --name agent --role reader --expires 30d --output agent.key
  ALKNET_KEY_FILE=agent.key alknet call fs/list")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Makes an API key and prints it, this once
    Create(CreateArgs),
    /// Lists API keys, never their secrets
    List {
        /// Only the keys of this peer
        #[arg(long)]
        peer: Option<String>,
    },
    /// Takes an API key back; connections made with it end at once
    Revoke {
        /// Its id or its name, as listed
        #[arg(value_name = "ID|NAME")]
        key: String,
        /// Whose it is, where several have one of that name
        #[arg(long)]
        peer: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --peer the key is a peer of its own, called by the key's name, which is
given the role, scopes and grants; `alknet grant NAME ...` changes that later.
With --peer the key is that peer's: it may do what the peer may, and of that no
more than --role, --scope and --grant say, if any of them is given.

The key alone goes to standard output, or with --output into a new file that only
its owner may read; no file is replaced. Nobody can print it again.

Examples:
  alknet keys create --name agent --role reader --expires 30d --output agent.key
  alknet keys create --name ci --peer laptop --grant deploy/restart | pass insert -m ci")]
struct CreateArgs {
    /// What the key is for
    #[arg(long)]
    name: String,
    /// The peer whose key it is; a new one of that name if not given
    #[arg(long)]
    peer: Option<String>,
    /// A role, at most which it gives
    #[arg(long)]
    role: Option<String>,
    /// A scope; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// An operation, a resource or another grant; may be repeated
    #[arg(long, value_name = "TARGET", value_parser = crate::commands::grants::parse_target)]
    grant: Vec<GrantTarget>,
    /// How long it is good for; for ever if not given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Writes the key into this file, which must not exist, readable by its owner
    /// alone
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(app: &App, args: KeysArgs) -> Result<(), Failure> {
    match args.command {
        KeysCommand::Create(args) => create(app, &args).await,
        KeysCommand::List { peer } => list(app, peer).await,
        KeysCommand::Revoke { key, peer } => revoke(app, &key, peer).await,
    }
}

impl CreateArgs {
    fn input(&self) -> Value {
        let mut input = json!({ "name": self.name });
        if let Some(peer) = &self.peer {
            input["peer"] = json!(peer);
        }
        let grants: Vec<String> = self.grant.iter().map(ToString::to_string).collect();
        match self.role.as_deref() {
            // Asked for in so many words: a key that gives nothing.
            Some("none") => input["grants"] = json!(grants),
            Some(role) => input["role"] = json!(role),
            None => {}
        }
        if !grants.is_empty() {
            input["grants"] = json!(grants);
        }
        if !self.scope.is_empty() {
            input["scopes"] = json!(self.scope);
        }
        if let Some(expires) = self.expires {
            input["expires_in_ms"] = json!(duration::millis(expires));
        }
        input
    }
}

async fn create(app: &App, args: &CreateArgs) -> Result<(), Failure> {
    // Before there is a key: one that cannot be kept is lost.
    let target = args.output.as_deref();
    let mut file = target.map(new_file).transpose()?;
    let asked = app.ask("keys/create", args.input()).await;
    let mut reply = asked.map_err(|failure| or_second_key(failure, args))?;
    let field = |name: &str| cell(reply.get(name));
    warn_of(app, &reply);
    let may = match reply.get("grants").filter(|grants| grants.is_array()) {
        Some(grants) => format!("of what `{}` may at most: {}", field("peer"), words(grants)),
        None if args.peer.is_some() => format!("all that `{}` may", field("peer")),
        None => words(reply.get("peer_grants").unwrap_or(&Value::Null)),
    };
    let ends = match reply.get("expires_at").and_then(Value::as_str) {
        Some(at) => format!(", until {}", when::stamp(at)),
        None => String::new(),
    };
    let said = format!(
        "key `{}` of peer `{}` may here: {may}{ends}; it is not shown again",
        field("id"),
        field("peer"),
    );
    app.out.say(&one_line(&said));
    if let (Some(target), Some(file)) = (target, file.take()) {
        keep(file, target, &field("key")).map_err(|failure| {
            let id = field("id");
            failure.hint(format!(
                "the key is made, and lost: alknet keys revoke {id}"
            ))
        })?;
        if let Some(fields) = reply.as_object_mut() {
            fields.remove("key");
            fields.insert("file".into(), json!(target));
        }
        return match app.out.json {
            true => app.out.json_line(&reply),
            false => Ok(()),
        };
    }
    match app.out.json {
        true => app.out.json_line(&reply),
        false => app.out.text(&field("key")),
    }
}

/// Where the key is to be, which is nowhere yet.
fn new_file(target: &Path) -> Result<Partial, Failure> {
    if target.symlink_metadata().is_ok() {
        let message = format!("`{}` exists already", target.display());
        return Err(Failure::new(Exit::FAILED, "EXISTS", message)
            .hint("a key replaces no file: choose another name"));
    }
    Partial::create(target)
}

fn keep(mut file: Partial, target: &Path, key: &str) -> Result<(), Failure> {
    let written = writeln!(file.file(), "{key}");
    written.map_err(|error| file.failed(&error))?;
    file.place(target, false)
}

/// The name is taken by a peer, which may have several keys.
fn or_second_key(failure: Failure, args: &CreateArgs) -> Failure {
    let details = failure.details.as_ref();
    let free = details.and_then(|details| details.get("suggestion")?.as_str());
    match free.filter(|_| failure.code == "CONFLICT" && args.peer.is_none()) {
        Some(free) => {
            let (free, name) = (quote(free), quote(&args.name));
            failure.hint(format!(
                "`--name {free}` is free; another key of `{name}` itself: --peer {name}"
            ))
        }
        None => failure,
    }
}

fn words(grants: &Value) -> String {
    match cell(Some(grants)) {
        empty if empty.is_empty() => "nothing".into(),
        words => words,
    }
}

fn warn_of(app: &App, reply: &Value) {
    let notes = reply.get("notes").and_then(Value::as_array);
    for note in notes.into_iter().flatten() {
        app.out.warn(&one_line(&cell(Some(note))));
    }
}

async fn list(app: &App, peer: Option<String>) -> Result<(), Failure> {
    let input = peer.map_or_else(|| json!({}), |peer| json!({ "peer": peer }));
    let reply = app.ask("keys/list", input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let keys = reply.get("keys").and_then(Value::as_array);
    let keys = keys.map(Vec::as_slice).unwrap_or_default();
    if keys.is_empty() {
        app.out
            .say("no keys yet; to make one: alknet keys create --name NAME --role ROLE");
    }
    app.out.text(&keys_table(keys).render(app.out.width()))
}

fn keys_table(keys: &[Value]) -> Table {
    let mut table = Table::new(&[
        "KEY",
        "NAME",
        "PEER",
        "STATE",
        "AT MOST",
        "ENDS",
        "LAST USED",
    ]);
    for key in keys {
        let field = |name: &str| cell(key.get(name));
        let time = |name: &str| match key.get(name).and_then(Value::as_str) {
            Some(at) => when::relative(at),
            None => "never".into(),
        };
        let at_most = match key.get("grants").filter(|grants| grants.is_array()) {
            Some(grants) => words(grants),
            None => "what its peer may".into(),
        };
        table.row([
            field("id"),
            field("name"),
            field("peer"),
            field("state"),
            at_most,
            time("expires_at"),
            time("last_used_at"),
        ]);
    }
    table
}

async fn revoke(app: &App, key: &str, peer: Option<String>) -> Result<(), Failure> {
    let mut input = json!({ "key": key });
    if let Some(peer) = peer {
        input["peer"] = json!(peer);
    }
    let reply = app.ask("keys/revoke", input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let field = |name: &str| cell(reply.get(name));
    let said = format!(
        "revoked key `{}` ({}) of `{}`",
        field("revoked"),
        field("name"),
        field("peer")
    );
    app.out.say(&one_line(&said));
    let notes = reply.get("notes").and_then(Value::as_array);
    for note in notes.into_iter().flatten() {
        app.out.say(&one_line(&cell(Some(note))));
    }
    Ok(())
}

/// Bytes of a key file that are looked at.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Reads the key that a command is to act with.
///
/// # Errors
///
/// If it cannot be read, others may read it, or it holds no API key. Nothing
/// of what it holds is told.
pub(crate) fn read_key_file(path: &Path) -> Result<ApiKey, Failure> {
    let failed = |error: std::io::Error| Failure::io("read key file", path, &error);
    let shown = path.display();
    // Looked at after it was opened: it is the same file then.
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.is_dir() {
        return Err(Failure::usage(format!("key file `{shown}` is a directory")));
    }
    let mode = found.permissions().mode() & 0o777;
    // A pipe (`<(pass show agent)`) is its makers' alone.
    if found.is_file() && mode & 0o077 != 0 {
        let message = format!("key file `{shown}` can be read by others (mode {mode:03o})");
        let hint = format!("chmod go= {}", quote(&shown.to_string()));
        return Err(Failure::local(message).hint(hint));
    }
    // One allocation: growing would leave copies behind.
    let mut bytes = Vec::with_capacity(2 * KEY_FILE_BYTES_MAX as usize);
    let read = file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes);
    let content = Secret::new(bytes);
    read.map_err(failed)?;
    let key = match content.expose_text() {
        Some(text) => ApiKey::parse(text).map_err(|error| error.to_string()),
        None => Err("this is no API key: one starts with `alk_`".into()),
    };
    key.map_err(|why| {
        Failure::local(format!("key file `{shown}`: {why}"))
            .hint("a key is made with: alknet keys create --name NAME --role ROLE")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node_access::{CallError, ErrorCode};
    use std::fs;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn key() -> ApiKey {
        ApiKey::of_random([1, 2, 3, 4, 5], &[7; 32])
    }

    #[test]
    fn a_key_file_is_the_key_with_or_without_an_end_of_line() {
        for end in ["", "\n", "\r\n"] {
            let (_dir, path) = file(format!("{}{end}", key().expose()).as_bytes(), 0o600);
            let read = read_key_file(&path).unwrap();
            assert_eq!(read.expose(), key().expose());
        }
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_before_it_is_read() {
        for mode in [0o640, 0o604, 0o660, 0o777] {
            let (_dir, path) = file(key().expose().as_bytes(), mode);
            let refused = read_key_file(&path).unwrap_err();
            assert!(refused.message.contains("can be read by others"));
            assert!(refused.hint.unwrap().starts_with("chmod go= "));
        }
    }

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        keep(new_file(&path).unwrap(), &path, key().expose()).unwrap();
        assert_eq!(read_key_file(&path).unwrap().expose(), key().expose());
        let refused = new_file(&path).err().unwrap();
        assert_eq!(refused.code, "EXISTS");
        // Made in between: the file stays as it is, and nothing is left beside.
        let other = dir.path().join("other.key");
        let late = new_file(&other).unwrap();
        fs::write(&other, "precious").unwrap();
        assert!(keep(late, &other, key().expose()).is_err());
        assert_eq!(fs::read(&other).unwrap(), b"precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_taken_name_may_be_one_to_make_a_second_key_for() {
        let error = CallError::new(ErrorCode::Conflict, "the name `agent` is taken")
            .with_details(json!({ "name": "agent", "suggestion": "agent-2" }));
        let mut args = CreateArgs {
            name: "agent".into(),
            peer: None,
            role: None,
            scope: vec![],
            grant: vec![],
            expires: None,
            output: None,
        };
        let hint = |args: &CreateArgs| or_second_key(Failure::call(&error), args).hint;
        assert_eq!(
            hint(&args).as_deref(),
            Some("`--name agent-2` is free; another key of `agent` itself: --peer agent")
        );
        args.peer = Some("laptop".into());
        assert_eq!(hint(&args), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_quoting_it() {
        let nearly = format!("{}s3cr3t", key().expose());
        let odd = "alk_é".repeat(12);
        for content in [
            &b""[..],
            b"s3cr3t",
            &[0xff, 0xfe],
            nearly.as_bytes(),
            odd.as_bytes(),
        ] {
            let (_dir, path) = file(content, 0o600);
            let refused = read_key_file(&path).unwrap_err();
            assert!(!refused.message.contains("s3cr3t"), "{}", refused.message);
            assert!(refused.hint.is_some());
        }
        let (dir, _) = file(b"", 0o600);
        assert_eq!(read_key_file(dir.path()).unwrap_err().exit.0, 2);
        assert!(read_key_file(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn keys_line_up() {
        let narrow = json!({
            "id": "aebagbaf", "name": "ci", "peer": "laptop", "grants": ["deploy/restart"],
            "state": "active", "created_at": "2026-01-31T12:00:00Z",
        });
        let mut own = narrow.clone();
        own["name"] = json!("agent");
        own["peer"] = json!("agent");
        own["grants"] = Value::Null;
        own["state"] = json!("disabled");
        assert_eq!(
            keys_table(&[narrow, own]).render(None),
            "KEY       NAME   PEER    STATE     AT MOST            ENDS   LAST USED\n\
             aebagbaf  ci     laptop  active    deploy/restart     never  never\n\
             aebagbaf  agent  agent   disabled  what its peer may  never  never\n"
        );
    }

    #[test]
    fn a_key_that_shall_give_nothing_says_so() {
        let args = |role: Option<&str>| CreateArgs {
            name: "ci".into(),
            peer: Some("laptop".into()),
            role: role.map(Into::into),
            scope: vec![],
            grant: vec![],
            expires: Some(Duration::from_secs(60)),
            output: None,
        };
        let input = |role| args(role).input();
        let plain = json!({ "name": "ci", "peer": "laptop", "expires_in_ms": 60_000 });
        assert_eq!(input(None), plain);
        assert_eq!(input(Some("none"))["grants"], json!([]));
        assert_eq!(input(Some("reader"))["role"], "reader");
    }
}
