//! `alknet doctor`.

mod buckets;
mod machine;
mod records;

use crate::{
    app::App,
    commands::{VERSION, settings, status},
    failure::{Exit, Failure},
    hint::quote,
    node_access::{self, Config, Findings},
    output::cell,
    table::one_line,
};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;

/// The first release was made in this year: no clock shows an earlier one.
const FIRST_YEAR: i32 = 2025;
/// A file may be so much younger than the clock: clocks are stepped.
const SKEW_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
#[command(after_help = "\
Looks and changes nothing, whether or not the node runs. Each finding says what
helps; the exit code is 1 if any of them is a failure.")]
pub(crate) struct DoctorArgs {
    /// Compares the database's indexes with its tables, too, which takes minutes
    /// where there are gigabytes
    #[arg(long)]
    deep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, message: impl Into<String>) -> Self {
        Self {
            name,
            status,
            message: message.into(),
            hint: None,
        }
    }

    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, message)
    }

    fn warn(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, message)
    }

    fn fail(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, message)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn hint_if(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

pub(crate) async fn run(app: &App, args: &DoctorArgs) -> Result<Exit, Failure> {
    let checks = checks(app, args.deep).await?;
    let is_fine = checks.iter().all(|check| check.status != Status::Fail);
    match app.out.json {
        true => app
            .out
            .json_line(&json!({ "ok": is_fine, "checks": checks }))?,
        false => app.out.text(&render(&checks))?,
    }
    Ok(if is_fine { Exit::FINE } else { Exit::FAILED })
}

fn render(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        text.push_str(&format!(
            "{status}  {:width$}  {}\n",
            check.name,
            one_line(&check.message)
        ));
        if let Some(hint) = &check.hint {
            text.push_str(&format!("      {:width$}  hint: {}\n", "", one_line(hint)));
        }
    }
    text
}

async fn checks(app: &App, deep: bool) -> Result<Vec<Check>, Failure> {
    let dir = app.dir();
    let mut checks = vec![clock(dir), directory(dir)];
    let config = match settings::load_checked(&node_access::config_path(dir), dir) {
        Ok(config) => {
            checks.push(Check::ok("configuration", "can be used"));
            config
        }
        Err(failure) => {
            checks.push(Check::fail("configuration", failure.message).hint_if(failure.hint));
            Config::default()
        }
    };
    if !node_access::is_initialised(dir) {
        checks.push(match node_access::has_database(dir) {
            true => Check::fail(
                "keys",
                "there are none, and a database of a node that had some",
            )
            .hint(node_access::KEYS_BACK),
            false => Check::warn("keys", "there are none yet").hint("alknet up"),
        });
        return Ok(checks);
    }
    checks.push(machine::files(dir));
    checks.extend(files(dir, deep).await?);
    let is_running = node_access::is_running(dir);
    checks.push(if is_running {
        running(app).await
    } else {
        Check::warn("node", "is not running").hint("alknet up")
    });
    if !is_running {
        checks.push(port(dir, &config));
    }
    let info = match is_running {
        true => app.ask("node/info", json!({})).await.ok(),
        false => None,
    };
    checks.push(relays(&config, info.as_ref()).await);
    checks.extend(own_relay(dir, &config, is_running, info.as_ref()));
    if is_running {
        checks.extend(anchors(app).await);
    }
    checks.push(account(&config));
    checks.extend(buckets::look(&config, dir));
    checks.push(machine::disk(dir));
    checks.push(machine::open_files());
    checks.extend(machine::udp_buffers());
    checks.push(machine::service());
    checks.push(records::last_backup(dir, node_access::now()));
    Ok(checks)
}

fn clock(dir: &Path) -> Check {
    let now = OffsetDateTime::now_utc();
    if now.year() < FIRST_YEAR {
        return Check::fail("clock", format!("shows the year {}", now.year()))
            .hint("set it: invites and access expire by it");
    }
    let newest = ["vault.json", "alknet.db", "runtime.json"]
        .iter()
        .filter_map(|name| {
            std::fs::metadata(dir.join(name))
                .and_then(|file| file.modified())
                .ok()
        });
    match newest
        .max()
        .and_then(|at| at.duration_since(SystemTime::now()).ok())
    {
        Some(ahead) if ahead > SKEW_MAX => {
            Check::warn("clock", "is behind the files of the data directory")
                .hint("set it: invites and access expire by it")
        }
        _ => Check::ok("clock", format!("shows {}", now.date())),
    }
}

fn directory(dir: &Path) -> Check {
    let shown = dir.display();
    let Ok(found) = std::fs::metadata(dir) else {
        return Check::warn("data directory", format!("`{shown}` does not exist yet"))
            .hint("alknet up");
    };
    let mode = found.permissions().mode() & 0o777;
    if !found.is_dir() {
        Check::fail("data directory", format!("`{shown}` is no directory"))
    } else if mode & 0o022 != 0 {
        Check::fail(
            "data directory",
            format!("`{shown}` can be changed by others (mode {mode:03o})"),
        )
        .hint(format!("chmod 700 {}", quote(&shown.to_string())))
    } else if mode & 0o055 != 0 {
        Check::warn(
            "data directory",
            format!("`{shown}` can be listed by others (mode {mode:03o})"),
        )
        .hint(format!("chmod 700 {}", quote(&shown.to_string())))
    } else {
        Check::ok("data directory", format!("`{shown}`"))
    }
}

/// Keys and database; both wait for the disk.
async fn files(dir: &Path, deep: bool) -> Result<Vec<Check>, Failure> {
    let at = dir.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let told = |name, found| match found {
            Ok(message) => Check::ok(name, message),
            Err(Findings { message, hint }) => Check::fail(name, message).hint_if(hint),
        };
        let keys = node_access::check_keys(&at);
        let node_id = node_access::node_id(&at);
        let mut checks = vec![
            told("keys", keys),
            told("database", node_access::check_database(&at, deep)),
        ];
        let now = node_access::now();
        checks.extend(records::look(&at, now, node_id.as_deref()));
        checks
    });
    looked
        .await
        .map_err(|error| Failure::local(format!("failed to look: {error}")))
}

async fn running(app: &App) -> Check {
    match app.home().await {
        Err(failure) => Check::fail("node", failure.message).hint_if(failure.hint),
        Ok(home) if home.runtime().version != VERSION => {
            let other = &home.runtime().version;
            Check::warn(
                "node",
                format!("runs release {other}, this program is {VERSION}"),
            )
            .hint("alknet down && alknet up --detach")
        }
        Ok(home) => Check::ok(
            "node",
            format!("runs as `{}`, process {}", home.name(), home.runtime().pid),
        ),
    }
}

/// Whether the port that the node would take is free.
fn port(dir: &Path, config: &Config) -> Check {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut wanted = config.network.bind.unwrap_or(any);
    if wanted.port() == 0 {
        wanted.set_port(node_access::kept_port(dir).unwrap_or(0));
    }
    match UdpSocket::bind(wanted) {
        Ok(_) if wanted.port() == 0 => Check::ok("port", "any free one will be taken"),
        Ok(_) => Check::ok("port", format!("UDP {wanted} is free")),
        Err(error) if config.network.bind.is_none_or(|bind| bind.port() == 0) => Check::warn(
            "port",
            format!("UDP {wanted}, at which peers look for this node, is taken: {error}"),
        )
        .hint("end what has it (a copy of this node?): until then `alknet up` takes another"),
        Err(error) => Check::fail("port", format!("UDP {wanted} cannot be taken: {error}"))
            .hint("alknet up --bind ADDR:PORT"),
    }
}

/// What lets the node and its peers find each other after both have moved; no
/// check without peers.
async fn anchors(app: &App) -> Option<Check> {
    let info = app.ask("node/info", json!({})).await.ok()?;
    if info["peers"] == 0 {
        return None;
    }
    let known = info["anchors"].as_array()?;
    let names: Vec<&str> = known.iter().filter_map(|name| name.as_str()).collect();
    let remedy = "alknet relay, on a machine with a public address";
    Some(match names.as_slice() {
        [] => Check::warn(
            "anchors",
            "none: this node and a peer that both move do not find each other again",
        )
        .hint(remedy),
        [one] => Check::warn(
            "anchors",
            format!("only {one}: while it is away, nodes that have moved do not find each other"),
        )
        .hint(remedy),
        all => Check::ok("anchors", all.join(", ")),
    })
}

/// Whether the relays in use work: as the running node sees them, or else as
/// they are found now.
async fn relays(config: &Config, info: Option<&Value>) -> Check {
    let configured = config.network.relays.as_deref();
    let used = match info {
        Some(info) => info["relays_in_use"].clone(),
        None => node_access::check_relays(configured.unwrap_or_default()).await,
    };
    let used: Vec<&Value> = used.as_array().into_iter().flatten().collect();
    if let Some(check) = bad_relay(&used) {
        return check;
    }
    let urls: Vec<String> = used.iter().map(|relay| cell(relay.get("url"))).collect();
    if let Some(info) = info
        && !used.is_empty()
        && !used.iter().any(|relay| relay["connected"] == true)
    {
        // The node has not found out yet. It reaches its own relay in a way of
        // its own.
        let own = cell(info.pointer("/relay/url"));
        let others: Vec<String> = urls.iter().filter(|url| **url != own).cloned().collect();
        let found = json!(node_access::check_relays(&others).await);
        let found: Vec<&Value> = found.as_array().into_iter().flatten().collect();
        return bad_relay(&found).unwrap_or_else(|| {
            Check::warn("relays", format!("not connected yet: {}", urls.join(", ")))
                .hint("alknet doctor, again in a few seconds")
        });
    }
    if !used.is_empty() {
        return Check::ok("relays", urls.join(", "));
    }
    match configured {
        None if config.relay.enabled => Check::ok("relays", "its own, once it runs"),
        None => Check::warn("relays", "nobody has chosen yet, so none is used")
            .hint("`alknet up` asks on a terminal; or set `relays` under `[network]`"),
        Some([]) => Check::ok("relays", "none, as configured: only direct connections"),
        Some(relays) => Check::ok("relays", relays.join(", ")),
    }
}

/// The first relay with which something is wrong.
fn bad_relay(used: &[&Value]) -> Option<Check> {
    let bad = used.iter().find(|relay| relay["problem"].is_string())?;
    let message = format!("{}: {}", cell(bad.get("url")), cell(bad.get("message")));
    Some(Check::fail("relays", message).hint(cell(bad.get("hint"))))
}

/// The relay that the node is; no check if it is none.
fn own_relay(dir: &Path, config: &Config, is_running: bool, info: Option<&Value>) -> Option<Check> {
    if let Some(relay) = info.and_then(status::own_relay) {
        return Some(Check::ok("own relay", relay));
    }
    if !config.relay.enabled {
        let is_described = config.relay != node_access::RelayServerConfig::default();
        return is_described.then(|| {
            Check::warn("own relay", "`[relay]` says how, and not that it is one")
                .hint("`enabled = true` under `[relay]`, or `alknet relay` instead of `alknet up`")
        });
    }
    let listen = config.relay.listen;
    if !is_running && let Err(error) = TcpListener::bind(listen) {
        let message = format!("TCP {listen} cannot be taken: {error}");
        return Some(
            Check::fail("own relay", message)
                .hint("choose another `listen` under `[relay]`, or end the program that has it"),
        );
    }
    Some(match node_access::check_own_relay(config, dir) {
        Ok(()) => Check::ok(
            "own relay",
            format!("can serve at TCP {}", config.relay.listen),
        ),
        Err(Findings { message, hint }) => Check::fail("own relay", message).hint_if(hint),
    })
}

fn account(config: &Config) -> Check {
    let is_root = rustix::process::geteuid().is_root();
    match (is_root, &config.exec.user) {
        (true, None) => Check::warn(
            "account",
            "root: no program is run for anybody until an account is named",
        )
        .hint("set `user` under `[exec]`"),
        (true, Some(user)) => Check::ok("account", format!("root; programs run as `{user}`")),
        (false, _) => Check::ok("account", "not root; programs run as this user"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn checks_line_up_with_their_hints() {
        let checks = [
            Check::ok("clock", "fine"),
            Check::fail("data directory", "gone\n").hint("look"),
        ];
        assert_eq!(
            render(&checks),
            "ok    clock           fine\n\
             FAIL  data directory  gone \n\
             \x20                     hint: look\n"
        );
    }

    #[test]
    fn a_directory_that_others_may_change_fails() {
        let dir = tempfile::tempdir().unwrap();
        let status = |mode: u32| {
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            directory(dir.path()).status
        };
        assert_eq!(
            [status(0o700), status(0o755), status(0o770)],
            [Status::Ok, Status::Warn, Status::Fail]
        );
        assert_eq!(directory(&dir.path().join("none")).status, Status::Warn);
    }

    #[test]
    fn a_taken_port_is_found() {
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = Config::default();
        config.network.bind = Some(taken.local_addr().unwrap());
        assert_eq!(port(Path::new("/none"), &config).status, Status::Fail);
        drop(taken);
        assert_eq!(
            port(Path::new("/none"), &Config::default()).status,
            Status::Ok
        );
    }
}
