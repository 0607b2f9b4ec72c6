//! `alknet service`.

mod unit;

use self::unit::{MARK, STATE_DIR, Scope, Unit};
use crate::{
    app::App,
    commands::settings,
    failure::{Exit, Failure},
    hint::quote,
    node_access, table,
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The unit's name.
const UNIT: &str = "alknet.service";
/// The account of a system service.
const ACCOUNT: &str = "alknet";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet service install
  alknet service install --print
  sudo alknet service install --system
  alknet service status")]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Makes a systemd unit that starts the node, and starts it
    Install(InstallArgs),
    /// Says whether the service is there and runs
    Status(ScopeArgs),
    /// Stops the service and removes its unit; the data directory stays
    Uninstall(ScopeArgs),
}

#[derive(Debug, Args)]
struct ScopeArgs {
    /// The service of the machine, instead of this user's
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A user's service runs while the user is logged in; `loginctl enable-linger` lets it
run always. One of the system runs as an account of its own and writes nowhere but
in its data directory and in the buckets that are configured when it is installed;
`systemctl edit alknet` with `ReadWritePaths=` adds others.

What peers may run here runs inside the service, under the same restrictions: no
`sudo`, and for a system service a read-only file system.")]
struct InstallArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// The account that a system service runs as; made if it is missing
    #[arg(long, value_name = "NAME", requires = "system", default_value = ACCOUNT)]
    user_name: String,
    /// The file with the vault's passphrase, which systemd hands to the node
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Lets a system service listen on ports below 1024
    #[arg(long, requires = "system")]
    low_ports: bool,
    /// Prints the unit and changes nothing
    #[arg(long)]
    print: bool,
    /// Replaces a unit that is there
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(app: &App, args: ServiceArgs) -> Result<Exit, Failure> {
    match args.command {
        ServiceCommand::Install(args) => install(app, &args),
        ServiceCommand::Status(args) => status(app, &args),
        ServiceCommand::Uninstall(args) => uninstall(app, &args),
    }
}

fn install(app: &App, args: &InstallArgs) -> Result<Exit, Failure> {
    let unit = unit(app, args)?;
    if args.print {
        app.out.text(&unit.render())?;
        return Ok(Exit::FINE);
    }
    let manager = Manager::of(args.scope.system)?;
    let path = manager.unit_path()?;
    if path.symlink_metadata().is_ok() && !args.force {
        let message = format!("`{}` exists already", path.display());
        return Err(Failure::new(Exit::FAILED, "EXISTS", message)
            .hint("--force replaces it; alknet service uninstall removes it"));
    }
    if node_access::is_running(&unit.data_dir) && !args.force {
        let message = format!("a node runs on `{}` already", unit.data_dir.display());
        return Err(Failure::new(Exit::FAILED, "RUNNING", message).hint("alknet down"));
    }
    if let Scope::System { user } = &unit.scope {
        make_account(user)?;
    }
    write(&path, &unit.render())?;
    manager.systemctl(&["daemon-reload"])?;
    manager.systemctl(&["enable", "--now", UNIT])?;
    if app.out.json {
        let made = json!({ "unit": UNIT, "path": path, "system": args.scope.system });
        app.out.json_line(&made)?;
    } else {
        app.out.text(&table::pairs(&[
            ("unit", path.display().to_string()),
            ("data", unit.data_dir.display().to_string()),
        ]))?;
        let log = match args.scope.system {
            true => "journalctl -u alknet",
            false => "journalctl --user -u alknet",
        };
        app.out
            .say(&format!("it runs, and says what it does in: {log}"));
        if !args.scope.system {
            app.out
                .say("to let it run while nobody is logged in: loginctl enable-linger");
        }
    }
    Ok(Exit::FINE)
}

fn unit(app: &App, args: &InstallArgs) -> Result<Unit, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::local(format!("failed to find this program: {error}")))?;
    let is_default = app.is_default_dir();
    let data_dir = match args.scope.system {
        true if is_default => PathBuf::from(STATE_DIR),
        _ => app.dir().to_owned(),
    };
    let has_passphrase = node_access::has_passphrase(&data_dir);
    if has_passphrase && args.passphrase_file.is_none() {
        let message = format!(
            "the vault in `{}` has a passphrase, and nobody types it at a boot",
            data_dir.display()
        );
        return Err(Failure::new(Exit::FAILED, "NEEDS_PASSPHRASE", message)
            .hint("--passphrase-file FILE, which systemd hands over; or: alknet vault passwd --no-passphrase"));
    }
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::io("find", path, &error))
    };
    if !is_account(&args.user_name) {
        return Err(Failure::usage(format!(
            "`{}` is no account",
            args.user_name
        )));
    }
    for path in [&program, &data_dir]
        .into_iter()
        .chain(&args.passphrase_file)
    {
        if path.to_string_lossy().contains(['\n', '\r']) {
            return Err(Failure::usage(
                "a path with a line break cannot stand in a unit",
            ));
        }
    }
    if args.scope.system && (program.starts_with("/root") || program.starts_with("/home")) {
        app.out.warn(&format!(
            "`{}` lies in a home directory, where the service's account may not reach it; install \
             it as /usr/local/bin/alknet",
            program.display()
        ));
    }
    let buckets = match args.scope.system {
        true => buckets(&data_dir)?,
        false => Vec::new(),
    };
    Ok(Unit {
        scope: match args.scope.system {
            true => Scope::System {
                user: args.user_name.clone(),
            },
            false => Scope::User,
        },
        program,
        data_dir,
        passphrase: args.passphrase_file.as_ref().map(absolute).transpose()?,
        low_ports: args.low_ports,
        buckets,
    })
}

/// Directories of buckets, as configured now: the sandbox of a system service
/// lets the node write to them. Whoever configures others installs it again.
fn buckets(data_dir: &Path) -> Result<Vec<(PathBuf, bool)>, Failure> {
    let config = match node_access::config_path(data_dir) {
        file if file.exists() => settings::load(&file)?,
        _ => return Ok(Vec::new()),
    };
    let buckets = config.buckets.into_iter();
    let buckets: Vec<_> = buckets
        .map(|bucket| (bucket.path, bucket.read_only))
        .collect();
    for (path, _) in &buckets {
        if path.to_string_lossy().contains(['\n', '\r']) {
            return Err(Failure::usage(
                "the path of a bucket with a line break cannot stand in a unit",
            ));
        }
    }
    Ok(buckets)
}

/// Where the system's service of this data directory may write; nothing if there
/// is none, or none that is confined.
pub(super) fn sandbox(data_dir: &Path) -> Option<Vec<PathBuf>> {
    let unit = unit_path(true)?;
    let text = fs::read_to_string(&unit).ok()?;
    let is_its = |line: &str| {
        line.starts_with("ExecStart=") && line.contains(&*data_dir.display().to_string())
    };
    if !text.contains("ProtectSystem=strict") || !text.lines().any(is_its) {
        return None;
    }
    let mut texts = vec![text];
    // What `systemctl edit` wrote.
    let beside = fs::read_dir(unit.with_extension("service.d"));
    for entry in beside.into_iter().flatten().flatten() {
        texts.extend(fs::read_to_string(entry.path()));
    }
    Some(texts.iter().flat_map(|text| writable(text)).collect())
}

/// What `ReadWritePaths=` names; words in quotes are one path each.
fn writable(unit: &str) -> Vec<PathBuf> {
    let lines = unit.lines();
    let values = lines.filter_map(|line| line.trim().strip_prefix("ReadWritePaths="));
    let mut found = Vec::new();
    for value in values {
        let mut rest = value.trim();
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            let path = word.trim_start_matches(['-', '+']).replace("%%", "%");
            found.push(PathBuf::from(path));
            rest = after.trim_start();
        }
    }
    found
}

/// As useradd(8) takes it.
fn is_account(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(is_part)
}

/// Makes an account that nobody logs in to.
fn make_account(name: &str) -> Result<(), Failure> {
    let known = Command::new("getent").args(["passwd", name]).output();
    if known.is_ok_and(|found| found.status.success()) {
        return Ok(());
    }
    run_program(
        "useradd",
        &[
            "--system",
            "--user-group",
            "--home-dir",
            STATE_DIR,
            "--shell",
            "/usr/sbin/nologin",
            name,
        ],
    )
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("write", path, &error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed)?;
    let beside = path.with_extension("service.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

fn status(app: &App, args: &ScopeArgs) -> Result<Exit, Failure> {
    let found = look(args.system);
    if app.out.json {
        app.out.json_line(&json!({
            "unit": UNIT,
            "system": args.system,
            "path": found.path,
            "installed": found.installed,
            "enabled": found.enabled,
            "active": found.active,
            "pid": found.pid,
        }))?;
        return Ok(found.exit());
    }
    let or_unknown = |known: &Option<String>| known.clone().unwrap_or_else(|| "not known".into());
    let path = found.path.as_deref().unwrap_or(Path::new("-"));
    let mut rows = vec![
        ("unit", path.display().to_string()),
        (
            "installed",
            if found.installed { "yes" } else { "no" }.into(),
        ),
    ];
    if found.installed {
        rows.push(("enabled", or_unknown(&found.enabled)));
        rows.push(("active", or_unknown(&found.active)));
        rows.extend(found.pid.map(|pid| ("process", pid.to_string())));
    }
    app.out.text(&table::pairs(&rows))?;
    Ok(found.exit())
}

/// What is known of a service.
#[derive(Debug)]
pub(super) struct Found {
    path: Option<PathBuf>,
    pub(super) installed: bool,
    /// `enabled`, `disabled` and so on; nothing where no manager answers.
    enabled: Option<String>,
    /// `active`, `failed` and so on.
    pub(super) active: Option<String>,
    pid: Option<u32>,
}

impl Found {
    /// As `systemctl status`: fine if it runs.
    fn exit(&self) -> Exit {
        match self.active.as_deref() {
            Some("active" | "reloading" | "activating") => Exit::FINE,
            _ => Exit::FAILED,
        }
    }
}

/// Looks without changing anything.
pub(super) fn look(system: bool) -> Found {
    let path = unit_path(system);
    let installed = path.as_ref().is_some_and(|path| path.exists());
    let mut found = Found {
        path,
        installed,
        enabled: None,
        active: None,
        pid: None,
    };
    if !installed || !has_systemd() {
        return found;
    }
    let mut command = systemctl(system);
    command.args(["show", UNIT, "-p", "ActiveState,UnitFileState,MainPID"]);
    let Ok(said) = command.output() else {
        return found;
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let value = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    found.enabled = value("UnitFileState");
    found.active = value("ActiveState");
    found.pid = value("MainPID")
        .and_then(|pid| pid.parse().ok())
        .filter(|pid| *pid != 0);
    found
}

fn uninstall(app: &App, args: &ScopeArgs) -> Result<Exit, Failure> {
    let manager = Manager::of(args.system)?;
    let path = manager.unit_path()?;
    let Ok(text) = fs::read_to_string(&path) else {
        let message = format!("there is no service `{}`", path.display());
        return Err(
            Failure::new(Exit::FAILED, "NOT_INSTALLED", message).hint("alknet service install")
        );
    };
    if !text.starts_with(MARK) {
        let message = format!("`{}` was made by somebody else", path.display());
        return Err(Failure::new(Exit::FAILED, "FOREIGN", message).hint(format!(
            "remove it by hand: rm {}",
            quote(&path.display().to_string())
        )));
    }
    manager.systemctl(&["disable", "--now", UNIT])?;
    fs::remove_file(&path).map_err(|error| Failure::io("remove", &path, &error))?;
    manager.systemctl(&["daemon-reload"])?;
    match app.out.json {
        true => app.out.json_line(&json!({ "removed": path }))?,
        false => app.out.say("removed; the data directory is as it was"),
    }
    Ok(Exit::FINE)
}

/// The service manager of the machine, or of the user.
struct Manager {
    system: bool,
}

impl Manager {
    fn of(system: bool) -> Result<Self, Failure> {
        if !has_systemd() {
            let message = "no systemd runs on this machine";
            return Err(Failure::new(Exit::FAILED, "NO_SYSTEMD", message)
                .hint("alknet service install --print, for another service manager; or alknet up --detach"));
        }
        if system && !rustix::process::geteuid().is_root() {
            let message = "a service of the system is made by root";
            return Err(Failure::new(Exit::NOT_ALLOWED, "NOT_ROOT", message)
                .hint("sudo alknet service install --system, or without --system for this user"));
        }
        Ok(Self { system })
    }

    fn unit_path(&self) -> Result<PathBuf, Failure> {
        unit_path(self.system)
            .ok_or_else(|| Failure::local("there is no home directory to put a unit in"))
    }

    fn systemctl(&self, words: &[&str]) -> Result<(), Failure> {
        let mut command = systemctl(self.system);
        command.args(words);
        said(command.output(), &format!("systemctl {}", words.join(" ")))
    }
}

fn unit_path(system: bool) -> Option<PathBuf> {
    match system {
        true => Some(Path::new("/etc/systemd/system").join(UNIT)),
        false => dirs::config_dir().map(|dir| dir.join("systemd/user").join(UNIT)),
    }
}

/// As sd_booted(3) finds out.
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn systemctl(system: bool) -> Command {
    let mut command = Command::new("systemctl");
    command.args((!system).then_some("--user"));
    command
}

fn run_program(name: &str, words: &[&str]) -> Result<(), Failure> {
    said(Command::new(name).args(words).output(), name)
}

fn said(ran: std::io::Result<std::process::Output>, what: &str) -> Result<(), Failure> {
    let ran = ran.map_err(|error| Failure::local(format!("failed to run {what}: {error}")))?;
    if ran.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&ran.stderr);
    Err(Failure::local(format!("{what} failed: {}", told.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_opens_is_read_back() {
        let unit = "[Service]\nReadWritePaths=-/var/www \"-/srv/a b\"\nReadWritePaths=/x%%y\n";
        let found = writable(unit);
        let want: Vec<PathBuf> = vec!["/var/www".into(), "/srv/a b".into(), "/x%y".into()];
        assert_eq!(found, want);
    }

    #[test]
    fn accounts_are_told_from_options_and_paths() {
        for (name, is) in [
            ("alknet", true),
            ("_a-1", true),
            ("", false),
            ("-r", false),
            ("Root", false),
            ("a b", false),
            ("a\nUser=root", false),
        ] {
            assert_eq!(is_account(name), is, "{name}");
        }
    }
}
