//! `alknet up`.

use crate::{
    app::App,
    commands::{
        QUIET, detach, filter, greeting, init, notify, passphrase, relay::ServerArgs, settings,
        vault,
    },
    descriptors,
    failure::{Exit, Failure},
    hardening,
    log_lines::OneLine,
    node_access::{self, Launch, LogBuffer, RelaySetting, RunningNode, Secret},
    prompt,
    signals::{self, StopSignals},
};
use clap::Args;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

#[derive(Debug, Args)]
#[command(after_help = "\
Makes the data directory if there is none. SIGTERM and Ctrl-C let running calls
finish, a second one does not; SIGHUP reads the configuration again.")]
pub(crate) struct UpArgs {
    /// The configuration; `alknet.toml` in the data directory if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The UDP address and port to listen on; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) bind: Option<SocketAddr>,
    /// Relays that help others reach this node: `none`, `n0` (n0's public ones,
    /// with its DNS), or addresses of your own, as `alknet relay` prints them;
    /// may be repeated
    #[arg(long, value_name = "none|n0|URL", value_parser = RelaySetting::parse)]
    pub(crate) relay: Vec<RelaySetting>,
    /// Announces this node on the LAN by multicast DNS, and finds peers there
    #[arg(long)]
    pub(crate) mdns: bool,
    /// Adds example operations
    #[arg(long)]
    pub(crate) demo: bool,
    /// Reads the passphrase that protects the keys, if one does, from a file
    /// which others may not read; `-` is standard input. Asked for on a terminal
    /// if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Lets debuggers of this user look into the process, and core dumps be
    /// written: both show its keys
    #[arg(long)]
    pub(crate) debuggable: bool,
    /// Goes on in the background, and returns when the node is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// What `--detach` starts
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) detached: bool,
    /// Set by `alknet relay`.
    #[arg(skip)]
    pub(crate) server: Option<ServerArgs>,
}

impl UpArgs {
    fn config_path(&self, app: &App) -> PathBuf {
        self.config
            .clone()
            .unwrap_or_else(|| node_access::config_path(app.dir()))
    }
}

pub(crate) async fn run(app: &App, args: UpArgs) -> Result<Exit, Failure> {
    if args.relay.len() > 1 && args.relay.contains(&RelaySetting::None) {
        return Err(Failure::usage(
            "`--relay none` beside another relay contradicts it",
        ));
    }
    if args.detached {
        // Leaves the terminal's session, so that closing it ends nothing.
        rustix::process::setsid()
            .map_err(|error| Failure::local(format!("failed to leave the session: {error}")))?;
    }
    if !args.debuggable {
        hardening::keep_memory_private();
    }
    // From here on, so that a signal during the start is not lost.
    let mut stop = StopSignals::listen()?;
    let mut reload = signals::listen(SignalKind::hangup())?;
    let preparing = async {
        let passphrase = prepare(app, &args).await?;
        if args.detach {
            detach::run(app, &args, passphrase.as_ref()).await?;
        }
        Ok::<_, Failure>(passphrase)
    };
    let passphrase = tokio::select! {
        prepared = preparing => prepared?,
        exit = stop.next() => return Ok(exit),
    };
    if args.detach {
        return Ok(Exit::FINE);
    }
    let logs = LogBuffer::default();
    install_logs(app, logs.clone());
    let launch = Launch {
        dir: app.dir().to_owned(),
        config: args.config_path(app),
        bind: args.bind,
        relays: args.relay.iter().map(relay_word).collect(),
        relay: args.server.clone(),
        mdns: args.mdns,
        demo: args.demo,
        logs,
        passphrase,
    };
    let node = tokio::select! {
        node = RunningNode::start(launch) => node?,
        exit = stop.next() => return Ok(exit),
    };
    // Not before: programs get what this process was given.
    descriptors::raise_limit();
    // A reader that has left missed the greeting; the node goes on.
    match greeting::print(app, &node.status()) {
        Err(failure) if !failure.is_silent() => {
            node.stop(Duration::ZERO).await;
            return Err(failure);
        }
        _ => {}
    }
    notify::ready(&format!("serving as {}", node.id()));
    let drain = serve(&node, &mut stop, &mut reload).await;
    notify::stopping();
    tokio::select! {
        () = node.stop(drain) => Ok(Exit::FINE),
        exit = stop.next() => Ok(exit),
    }
}

/// Keys, configuration, and the one question about relays. Answers with the
/// passphrase that protects the keys.
async fn prepare(app: &App, args: &UpArgs) -> Result<Option<Secret>, Failure> {
    let path = args.config_path(app);
    if args.config.is_some() && !path.exists() {
        return Err(Failure::local(format!(
            "there is no configuration `{}`",
            path.display()
        )));
    }
    // Before anything is made: a misspelt file makes nothing.
    let config = settings::load_checked(&path, app.dir())?;
    // In the foreground, the log of the start says so.
    if args.detach && node_access::has_lost_database(app.dir()) {
        app.out
            .warn("the database is gone: the node starts without peers, grants and history");
        app.out
            .say(&format!("hint: {}", node_access::DATABASE_BACK));
    }
    let passphrase = match node_access::is_initialised(app.dir()) {
        true => vault::old_passphrase(app, args.passphrase_file.as_ref()).await?,
        false => {
            let given = match &args.passphrase_file {
                Some(path) => Some(passphrase::read_given(path).await?),
                None => None,
            };
            let copy = given.as_ref().map(|given| Secret::new(given.expose()));
            let report = init::make(app, None, copy).await?;
            init::tell_words(app, &report);
            given
        }
    };
    if args.relay.is_empty()
        && config.network.relays.is_none()
        && args.server.is_none()
        && !config.relay.enabled
        && app.out.can_ask()
        && !args.detached
    {
        let relays = ask_relays().await?;
        settings::store_relays(&path, &relays)?;
        app.out.say(&format!("kept in `{}`", path.display()));
    }
    Ok(passphrase)
}

const RELAY_QUESTION: &str = "\
Relays help other machines reach this one where no port is open to it.
  1  n0's public relays and DNS: works from almost anywhere. n0 sees node ids,
     addresses, sizes and times; it can read nothing.
  2  a relay of your own: you give the address that `alknet relay` printed on
     a machine that all can reach, and nobody else is asked.
  3  none: only machines that can reach this address directly.
";

async fn ask_relays() -> Result<Vec<String>, Failure> {
    let mut question = format!("{RELAY_QUESTION}Which? [3] ");
    loop {
        match prompt::ask(std::mem::take(&mut question)).await?.as_str() {
            "1" => return Ok(vec!["n0".into()]),
            "2" => return Ok(vec![ask_relay_url().await?]),
            "3" | "" => return Ok(Vec::new()),
            _ => question = "1, 2 or 3? ".into(),
        }
    }
}

async fn ask_relay_url() -> Result<String, Failure> {
    loop {
        let url = prompt::ask("its address: ".into()).await?;
        match RelaySetting::parse(&url) {
            Ok(RelaySetting::Url(_)) => return Ok(url),
            Ok(_) => prompt::tell("that is no URL"),
            Err(reason) => prompt::tell(&reason),
        }
    }
}

/// Log lines go to standard error and into the node's memory, where
/// `alknet logs` finds them.
fn install_logs(app: &App, logs: LogBuffer) {
    let least = if app.out.quiet { "error" } else { "warn" };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| OneLine(std::io::stderr()))
        .with_ansi(app.out.has_colour())
        .with_filter(filter(app.verbose, least));
    let kept =
        "info,alknet=debug,alknet_node=debug,alknet_call=debug,alknet_core=debug,alknet_exec=debug";
    let kept = logs.with_filter(EnvFilter::new(format!("{kept},{QUIET}")));
    // Only fails when an embedding program has installed one: keep that.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(kept)
        .try_init();
}

/// Runs until a signal or `node/shutdown`; says how long calls may take then.
async fn serve(node: &RunningNode, stop: &mut StopSignals, reload: &mut Signal) -> Duration {
    loop {
        tokio::select! {
            _ = stop.next() => return node.drain_time(),
            drain = node.stopping() => return drain,
            _ = reload.recv() => node.reload().await,
        }
    }
}

/// The words that start the same node in the background.
pub(crate) fn detached_words(dir: &Path, args: &UpArgs) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = vec![
        if args.server.is_some() { "relay" } else { "up" }.into(),
        "--detached".into(),
        "--json".into(),
        "--data-dir".into(),
        dir.into(),
    ];
    if let Some(config) = &args.config {
        // The child's directory is the same, so a relative path stays true.
        words.extend(["--config".into(), config.into()]);
    }
    if let Some(bind) = args.bind {
        words.extend(["--bind".into(), bind.to_string().into()]);
    }
    for relay in &args.relay {
        words.extend(["--relay".into(), relay_word(relay).into()]);
    }
    if let Some(server) = &args.server {
        words.extend(server.words());
    }
    if args.demo {
        words.push("--demo".into());
    }
    if args.debuggable {
        words.push("--debuggable".into());
    }
    if args.mdns {
        words.push("--mdns".into());
    }
    words
}

fn relay_word(relay: &RelaySetting) -> String {
    match relay {
        RelaySetting::None => "none".into(),
        RelaySetting::N0 => "n0".into(),
        RelaySetting::Url(address) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn up(words: &[&str]) -> UpArgs {
        match Cli::try_parse_from([&["alknet", "up"], words].concat())
            .unwrap()
            .command
        {
            Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_detached_node_gets_the_same_words() {
        let given = [
            "--config",
            "a.toml",
            "--bind",
            "127.0.0.1:0",
            "--relay",
            "https://relay.example.org/",
            "--demo",
        ];
        let words = detached_words(Path::new("/d"), &up(&given));
        let cli = Cli::try_parse_from([vec!["alknet".into()], words].concat()).unwrap();
        assert_eq!(cli.global.data_dir.as_deref(), Some(Path::new("/d")));
        let Command::Up(args) = cli.command else {
            panic!("up")
        };
        let want = up(&given);
        assert!(args.detached && !args.detach && args.demo);
        assert_eq!(
            (args.config, args.bind, args.relay),
            (want.config, want.bind, want.relay)
        );
    }
}
