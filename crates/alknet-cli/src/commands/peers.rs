//! `alknet peers`.

use crate::{
    app::App,
    cli::parse_duration,
    commands::{
        explain::{self, ExplainArgs},
        grants::held,
        invite::role_grants,
        ping::path_words,
    },
    duration,
    failure::Failure,
    hint::quote,
    node_access::{CallOptions, SSH_KEY_TEXT_BYTES_MAX, Secret, SshPublicKey},
    output::cell,
    prompt,
    table::{self, Table, one_line},
    when,
};
use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    #[command(subcommand)]
    command: PeersCommand,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Lists peers and how they are connected
    List,
    /// Follows how peers are connected, a line for every change
    Watch,
    /// Shows everything known of a peer
    Show {
        /// The peer
        peer: String,
    },
    /// Adds a peer whose node id is known; `alknet invite` is easier
    Add(AddArgs),
    /// Changes a peer
    Update(UpdateArgs),
    /// Replaces a peer's node key; its name, grants and history stay
    Rotate(RotateArgs),
    /// Tells step by step why a peer may call an operation, or may not
    Explain(ExplainArgs),
    /// Removes a peer, with its grants
    Remove {
        /// The peer
        peer: String,
        /// Does not ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// What the peer is called here
    name: String,
    /// Its public key, 64 hexadecimal digits: `alknet status` prints it there
    #[arg(
        long,
        value_name = "ID",
        required_unless_present_any = ["ssh_key", "ssh_ca"]
    )]
    node_id: Option<String>,
    /// Where it can be reached; may be repeated
    #[arg(long, value_name = "ADDR:PORT")]
    address: Vec<String>,
    /// A relay it uses; may be repeated
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
    /// What it may do here
    #[arg(long, default_value = "none")]
    role: String,
    /// How long the access lasts; for ever if not given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    access_for: Option<Duration>,
    /// An SSH key it has: a `.pub` file; may be repeated
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// An SSH authority whose certificates stand for it: a `.pub` file
    #[arg(long, value_name = "FILE")]
    ssh_ca: Option<PathBuf>,
    /// A principal of those certificates; the peer's name if none is given; may be repeated
    #[arg(long, requires = "ssh_ca")]
    principal: Vec<String>,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// The peer
    peer: String,
    /// How it is shown to people; what it is called in commands stays
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// A group it is in, instead of those it was in; may be repeated
    #[arg(long)]
    group: Vec<String>,
    /// Lets it in again
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Keeps it out, and keeps what is known of it
    #[arg(long)]
    disable: bool,
    /// How long the access lasts from now on; `0s` lifts the limit
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    access_for: Option<Duration>,
    /// Where it can be reached, instead of what was known; may be repeated
    #[arg(long, value_name = "ADDR:PORT")]
    address: Vec<String>,
    /// A relay it uses, instead of those known; may be repeated
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
    /// An SSH key it has beside those known: a `.pub` file; may be repeated
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// An SSH authority whose certificates stand for it: a `.pub` file
    #[arg(long, value_name = "FILE")]
    ssh_ca: Option<PathBuf>,
    /// A principal of those certificates; the peer's name if none is given; may be repeated
    #[arg(long, requires = "ssh_ca")]
    principal: Vec<String>,
    /// The fingerprint of an SSH key or authority that it no longer has; may be repeated
    #[arg(long, value_name = "SHA256:...")]
    remove_ssh: Vec<String>,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The peer
    peer: String,
    /// Its new public key, 64 hexadecimal digits
    #[arg(long, value_name = "ID")]
    node_id: String,
    /// How long the old key works beside the new one; given again with the same
    /// new key, it changes that: `0s` ends the old one now
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    overlap: Option<Duration>,
}

pub(crate) async fn run(app: &App, args: PeersArgs) -> Result<(), Failure> {
    match args.command {
        PeersCommand::List => list(app).await,
        PeersCommand::Watch => watch(app).await,
        PeersCommand::Show { peer } => {
            let peer = app.ask("peers/show", json!({ "peer": peer })).await?;
            print_peer(app, &peer)
        }
        PeersCommand::Add(args) => {
            let peer = app.ask("peers/add", args.input()?).await?;
            if matches!(args.role.as_str(), "operator" | "admin") {
                app.out.warn(&format!(
                    "`{}` may run any program here as the user of this node",
                    args.name
                ));
            }
            print_peer(app, &peer)
        }
        PeersCommand::Update(args) => {
            let peer = app.ask("peers/update", args.input()?).await?;
            print_peer(app, &peer)
        }
        PeersCommand::Rotate(args) => {
            let mut input = json!({ "peer": args.peer, "node_id": args.node_id });
            if let Some(overlap) = args.overlap {
                input["overlap_ms"] = json!(duration::millis(overlap));
            }
            let peer = app.ask("peers/rotate", input).await?;
            print_peer(app, &peer)
        }
        PeersCommand::Explain(args) => explain::run(app, args).await,
        PeersCommand::Remove { peer, yes } => remove(app, &peer, yes).await,
    }
}

impl AddArgs {
    fn input(&self) -> Result<Value, Failure> {
        let mut input = json!({
            "peer": self.name,
            "grants": role_grants(&self.role),
        });
        if let Some(node_id) = &self.node_id {
            input["node_id"] = json!(node_id);
        }
        put_ssh(
            &mut input,
            &self.ssh_key,
            self.ssh_ca.as_deref(),
            &self.principal,
        )?;
        put_list(&mut input, "addresses", &self.address);
        put_list(&mut input, "relays", &self.relay);
        if let Some(access) = self.access_for {
            input["access_for_ms"] = json!(duration::millis(access));
        }
        Ok(input)
    }
}

impl UpdateArgs {
    fn input(&self) -> Result<Value, Failure> {
        let mut input = json!({ "peer": self.peer });
        put_list(&mut input, "groups", &self.group);
        put_list(&mut input, "addresses", &self.address);
        put_list(&mut input, "relays", &self.relay);
        put_list(&mut input, "remove_ssh", &self.remove_ssh);
        put_ssh(
            &mut input,
            &self.ssh_key,
            self.ssh_ca.as_deref(),
            &self.principal,
        )?;
        if let Some(name) = &self.display_name {
            input["display_name"] = json!(name);
        }
        if self.enable || self.disable {
            input["enabled"] = json!(self.enable);
        }
        if let Some(access) = self.access_for {
            input["access_for_ms"] = json!(duration::millis(access));
        }
        match input.as_object().is_some_and(|fields| fields.len() > 1) {
            true => Ok(input),
            false => {
                Err(Failure::usage("nothing to change was given")
                    .hint("alknet peers update --help"))
            }
        }
    }
}

fn put_list(input: &mut Value, field: &str, list: &[String]) {
    if !list.is_empty() {
        input[field] = json!(list);
    }
}

/// Public SSH keys are read here: what a file holds that is no public key goes
/// no further.
fn put_ssh(
    input: &mut Value,
    keys: &[PathBuf],
    authority: Option<&Path>,
    principals: &[String],
) -> Result<(), Failure> {
    let lines: Result<Vec<String>, Failure> = keys.iter().map(|path| public_key(path)).collect();
    put_list(input, "ssh_keys", &lines?);
    if let Some(path) = authority {
        input["ssh_cas"] = json!([{ "public_key": public_key(path)?, "principals": principals }]);
    }
    Ok(())
}

/// The one key in a `.pub` file, as a line.
fn public_key(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::io("read", path, &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    // What is cut off is too long to be a key, and refused as such.
    let most = SSH_KEY_TEXT_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::with_capacity(2 * most as usize);
    let read = file.take(most).read_to_end(&mut bytes);
    // It may be a private key, by mistake.
    let content = Secret::new(bytes);
    read.map_err(failed)?;
    let wrong = |why: String| {
        Failure::usage(format!("`{}`: {why}", path.display()))
            .hint("a public key is the line in a `.pub` file, such as ~/.ssh/id_ed25519.pub")
    };
    let text = content
        .expose_text()
        .ok_or_else(|| wrong("this is no text".into()))?;
    let key = SshPublicKey::parse(text).map_err(|error| wrong(error.to_string()))?;
    Ok(match key.comment() {
        Some(comment) => format!("{key} {comment}"),
        None => key.to_string(),
    })
}

async fn list(app: &App) -> Result<(), Failure> {
    let reply = app.ask("peers/list", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let peers = reply
        .get("peers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if peers.is_empty() {
        app.out
            .say("no peers yet; to make one: alknet invite --role node/info");
    }
    app.out.text(&peers_table(&peers).render(app.out.width()))
}

/// One line an item: the present states first, then what changes.
async fn watch(app: &App) -> Result<(), Failure> {
    let home = app.home().await?;
    let options = CallOptions::default();
    let watching = home.subscribe("peers/watch", json!({}), options).await;
    let mut items = watching.map_err(|error| app.explain(home, &error))?;
    while let Some(item) = items.next().await {
        let item = item.and_then(|item| item.into_value());
        let item = item.map_err(|error| app.explain(home, &error))?;
        match app.out.json {
            true => app.out.json_line(&item)?,
            false => app.out.text(&watch_line(&item))?,
        }
    }
    Ok(())
}

/// `nas: connected, relay https://relay.example/, 12.0 ms`.
fn watch_line(item: &Value) -> String {
    let field = |name: &str| cell(item.get(name));
    let mut line = format!("{}: {}", field("peer"), field("state"));
    if item.get("address").is_some_and(Value::is_string) {
        line.push_str(&format!(", {}", path_words(Some(item))));
    }
    if let Some(rtt) = item.get("rtt_ms").and_then(Value::as_f64) {
        line.push_str(&format!(", {rtt:.1} ms"));
    }
    let failed = field("last_error");
    if !failed.is_empty() {
        line.push_str(&format!(": {failed}"));
    }
    one_line(&line)
}

fn peers_table(peers: &[Value]) -> Table {
    let mut table = Table::new(&["PEER", "STATE", "PATH", "RTT", "MAY HERE", "LAST SEEN"]);
    for peer in peers {
        let at = |pointer: &str| peer.pointer(pointer);
        table.row([
            cell(at("/peer")),
            state(peer),
            cell(at("/link/path")),
            at("/link/rtt_ms")
                .and_then(Value::as_f64)
                .map_or_else(String::new, |rtt| format!("{rtt:.1} ms")),
            cell(at("/grants")),
            match at("/last_seen_at") {
                _ if is_connected(peer) => "now".into(),
                Some(seen) => when::relative(&cell(Some(seen))),
                None => "never".into(),
            },
        ]);
    }
    table
}

/// The peer that this program is, on every node.
const OWNER: &str = "owner";

fn is_connected(peer: &Value) -> bool {
    peer.get("connected") == Some(&Value::Bool(true))
}

fn state(peer: &Value) -> String {
    if cell(peer.get("peer")) == OWNER {
        return "this command line".into();
    }
    if peer.get("enabled") == Some(&Value::Bool(false)) {
        return "disabled".into();
    }
    let link = cell(peer.pointer("/link/state"));
    match peer.get("connected").and_then(Value::as_bool) {
        Some(true) if link.is_empty() => "connected".into(),
        _ if link.is_empty() => "not connected".into(),
        _ => link,
    }
}

fn print_peer(app: &App, peer: &Value) -> Result<(), Failure> {
    match app.out.json {
        true => app.out.json_line(peer),
        false => app.out.text(&render_peer(peer)),
    }
}

fn render_peer(peer: &Value) -> String {
    let field = |name: &str| cell(peer.get(name));
    let time = |name: &str, absent: &str| match peer.get(name).and_then(Value::as_str) {
        Some(at) => format!("{} ({})", when::stamp(at), when::relative(at)),
        None => absent.to_owned(),
    };
    let link = |name: &str| cell(peer.get("link").and_then(|link| link.get(name)));
    let mut pairs = vec![
        ("peer", field("peer")),
        ("shown as", field("display_name")),
        ("node id", field("node_id")),
        ("state", state(peer)),
    ];
    let failed = link("last_error");
    if !failed.is_empty() && !is_connected(peer) {
        pairs.push(("last failure", failed));
    }
    if let Some(link) = peer.get("link").filter(|link| link.is_object()) {
        pairs.extend(link_pairs(link));
    }
    let keys = peer.get("node_keys").and_then(Value::as_array);
    for key in keys
        .into_iter()
        .flatten()
        .filter(|key| key.get("until").is_some_and(Value::is_string))
    {
        let until = when::stamp(&cell(key.get("until")));
        pairs.push(("old key", format!("{} until {until}", cell(key.get("key")))));
    }
    pairs.extend([
        (
            "may here",
            held("", peer.get("grants"))
                .trim_start_matches(" may: ")
                .to_owned(),
        ),
        ("groups", field("groups")),
    ]);
    pairs.extend(ssh_pairs(peer));
    pairs.extend([
        ("addresses", field("addresses")),
        ("relays", field("relays")),
    ]);
    // Nothing at all is known there of most peers.
    for (name, known) in [("told", field("told")), ("reached at", field("reached"))] {
        if !known.is_empty() {
            pairs.push((name, known));
        }
    }
    pairs.extend([
        ("access ends", time("expires_at", "never")),
        ("added", time("created_at", "")),
        (
            "last seen",
            match is_connected(peer) {
                true => "now".into(),
                false => time("last_seen_at", "never"),
            },
        ),
    ]);
    table::pairs(&pairs)
}

/// SSH keys, authorities, and how many API keys there are.
fn ssh_pairs(peer: &Value) -> Vec<(&'static str, String)> {
    let each = |name: &str| {
        let list = peer.get(name).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut pairs = Vec::new();
    for key in each("ssh_keys") {
        let words = [cell(key.get("fingerprint")), cell(key.get("comment"))];
        pairs.push(("ssh key", words.join(" ").trim_end().to_owned()));
    }
    for held in each("ssh_cas") {
        let field = |name: &str| cell(held.get(name));
        let words = format!("{} for `{}`", field("fingerprint"), field("principal"));
        pairs.push(("ssh authority", words));
    }
    if let Some(count) = peer.get("api_keys").and_then(Value::as_u64) {
        pairs.push(("api keys", count.to_string()));
    }
    pairs
}

/// How the link is, and what went over it.
fn link_pairs(link: &Value) -> Vec<(&'static str, String)> {
    let field = |name: &str| cell(link.get(name));
    let number = |name: &str| link.get(name).and_then(Value::as_f64);
    let mut pairs = vec![("path", path_words(Some(link)))];
    if let Some(rtt) = number("rtt_ms") {
        let mtu = field("mtu");
        let of = if mtu.is_empty() {
            String::new()
        } else {
            format!(", packets of {mtu} bytes")
        };
        pairs.push(("round trip", format!("{rtt:.1} ms{of}")));
    }
    if let Some(loss) = number("loss") {
        let recent = number("loss_recent");
        let recent = recent.map_or_else(String::new, |loss| {
            format!(", {} of the last minute", percent(loss))
        });
        pairs.push((
            "lost",
            format!("{} of what was sent{recent}", percent(loss)),
        ));
    }
    let carried = number("bytes_sent").zip(number("bytes_received"));
    if let Some((sent, received)) = carried {
        let relayed = number("relay_share").map_or_else(String::new, |share| {
            format!(", {} of it through a relay", percent(share))
        });
        let (sent, received) = (bytes(sent), bytes(received));
        pairs.push((
            "carried",
            format!("{sent} sent, {received} received{relayed}"),
        ));
    }
    for change in link
        .get("changes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let at = cell(change.get("at"));
        let (from, to) = (path_words(change.get("from")), path_words(change.get("to")));
        pairs.push((
            "changed",
            format!("{from} -> {to} ({})", when::relative(&at)),
        ));
    }
    pairs.push(("offers", format!("{} operations", field("operations"))));
    pairs
}

/// `2.5%`.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "nothing".to_owned(),
        percent if percent < 0.1 => "less than 0.1%".to_owned(),
        percent => format!("{percent:.1}%"),
    }
}

/// `1.5 MB`, in powers of 1000.
pub(super) fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut count = count;
    let mut unit = 0;
    while count >= 999.95 && unit + 1 < UNITS.len() {
        count /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{count:.digits$} {}", UNITS[unit])
}

async fn remove(app: &App, peer: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        if !app.out.can_ask() {
            let message = "removing a peer takes its grants too, and nobody can be asked here";
            let command = format!("alknet peers remove {} --yes", quote(peer));
            return Err(Failure::usage(message).hint(format!("use --yes: {command}")));
        }
        let question = format!("remove peer `{}` with its grants?", one_line(peer));
        if !prompt::confirm(&question).await? {
            return Err(Failure::local("nothing was removed"));
        }
    }
    let reply = app.ask("peers/remove", json!({ "peer": peer })).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    app.out.say(&one_line(&format!("removed `{peer}`")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Value {
        json!({
            "peer": "laptop", "display_name": "Laptop", "node_id": "ab", "node_keys": [{ "key": "ab" }],
            "grants": ["editor"], "groups": [], "enabled": true, "created_at": "2026-01-31T12:00:00Z",
            "addresses": ["10.0.0.2:4433"], "relays": [], "connected": true,
            "link": { "state": "connected", "path": "direct", "address": "10.0.0.2:4433", "rtt_ms": 3.21, "since": "2026-01-31T12:00:00Z", "operations": 12,
                "mtu": 1452, "loss": 0.025, "loss_recent": 0.0, "bytes_sent": 1_500_000, "bytes_received": 512,
                "relay_share": 0.25, "path_changes": 1, "changes": [{ "at": "2026-01-31T12:00:01Z",
                    "from": { "path": "relay", "address": "https://relay.example/" },
                    "to": { "path": "direct", "address": "10.0.0.2:4433" } }] },
        })
    }

    #[test]
    fn peers_line_up() {
        let mut other = peer();
        other["peer"] = json!("nas");
        other["enabled"] = json!(false);
        other["link"] = Value::Null;
        other["connected"] = json!(false);
        assert_eq!(
            peers_table(&[peer(), other]).render(None),
            "PEER    STATE      PATH    RTT     MAY HERE  LAST SEEN\n\
             laptop  connected  direct  3.2 ms  editor    now\n\
             nas     disabled                   editor    never\n"
        );
    }

    #[test]
    fn a_peer_is_shown_whole() {
        let text = render_peer(&peer());
        for line in [
            "peer:         laptop\n",
            "may here:     editor\n",
            "path:         direct 10.0.0.2:4433\n",
            "round trip:   3.2 ms, packets of 1452 bytes\n",
            "lost:         2.5% of what was sent, nothing of the last minute\n",
            "carried:      1.5 MB sent, 512 bytes received, 25.0% of it through a relay\n",
            "changed:      relay https://relay.example/ -> direct 10.0.0.2:4433 (",
            "offers:       12 operations\n",
            "access ends:  never\n",
            "last seen:    now\n",
            "added:        2026-01-31T12:00:00.000Z (",
        ] {
            assert!(text.contains(line), "{line:?} not in\n{text}");
        }
    }

    #[test]
    fn what_is_followed_is_a_line_each() {
        let item = json!({ "peer": "nas", "state": "connected", "path": "relay", "address": "https://relay.example/", "rtt_ms": 12.0 });
        assert_eq!(
            watch_line(&item),
            "nas: connected, relay https://relay.example/, 12.0 ms"
        );
        let item =
            json!({ "peer": "nas", "state": "waiting", "path": "none", "last_error": "no answer" });
        assert_eq!(watch_line(&item), "nas: waiting: no answer");
    }

    #[test]
    fn bytes_are_told_in_their_largest_unit() {
        let told = [0.0, 999.0, 1000.0, 1_500_000.0, 999_960.0, 3e15].map(bytes);
        assert_eq!(
            told,
            [
                "0 bytes",
                "999 bytes",
                "1.0 kB",
                "1.5 MB",
                "1.0 MB",
                "3000.0 TB"
            ]
        );
        assert_eq!(percent(0.0), "nothing");
        assert_eq!(percent(0.0001), "less than 0.1%");
    }

    #[test]
    fn a_peer_that_is_not_reached_is_shown_with_the_reason() {
        let mut peer = peer();
        peer["connected"] = json!(false);
        peer["link"] = json!({ "state": "waiting", "path": "none", "since": "2026-01-31T12:00:00Z", "operations": 0, "last_error": "no answer" });
        let text = render_peer(&peer);
        assert!(text.contains("last failure:  no answer\n"), "{text}");
        assert!(text.contains("last seen:     never\n"), "{text}");
    }

    #[test]
    fn an_update_changes_what_was_given_and_something() {
        let nothing = UpdateArgs {
            peer: "laptop".into(),
            display_name: None,
            group: vec![],
            enable: false,
            disable: false,
            access_for: None,
            address: vec![],
            relay: vec![],
            ssh_key: vec![],
            ssh_ca: None,
            principal: vec![],
            remove_ssh: vec![],
        };
        assert_eq!(nothing.input().map_err(|failure| failure.exit.0), Err(2));
        let disabled = UpdateArgs {
            disable: true,
            group: vec!["staff".into()],
            ..nothing
        };
        assert_eq!(
            disabled.input().ok(),
            Some(json!({ "peer": "laptop", "groups": ["staff"], "enabled": false }))
        );
    }
}
