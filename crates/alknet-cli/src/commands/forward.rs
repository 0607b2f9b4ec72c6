//! `alknet forward`.

mod carry;
mod local;
mod remote;
mod spec;

use self::{
    carry::Side,
    local::Local,
    remote::Remote,
    spec::{ForwardSpec, parse_spec},
};
use crate::{
    app::App,
    commands::call::{Failed, parse_on},
    descriptors,
    failure::{Exit, Failure},
    hint::Place,
    node_access::{CallError, CallOptions, Home, Route, RouteStep},
};
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;

#[derive(Debug, Args)]
#[command(after_help = "\
-L listens on this machine and connects from the peer; that takes, on the peer,
the scope `net:dial` and `net:HOST:PORT=dial`. -R listens on the peer and connects
from this machine; that takes `net:listen` and `net:BIND:PORT=listen`. Both may be
repeated. BIND is 127.0.0.1 unless given; with port 0 the system picks one. IPv6
addresses stand in brackets.

One line says when a port is ready, on standard error; with --json also one object
on standard output. It runs until it is stopped. A connection that fails ends
alone, with a line; when the peer goes away and comes back, so do the ports.

Examples:
  alknet forward nas -L 5432:db.lan:5432
  alknet forward nas -L '[::1]:8080:[fd12::5]:80' -R 8000:localhost:3000
  alknet forward hub/nas -L 0:localhost:80 --json")]
pub(crate) struct ForwardArgs {
    /// Where: a peer, a route to one behind it, or `:` for this node
    #[arg(value_name = "PEER", value_parser = parse_on)]
    on: Route,
    /// Listens here, connects from the peer; may be repeated
    #[arg(
        short = 'L',
        long = "local",
        value_name = "[BIND:]PORT:HOST:PORT",
        value_parser = parse_spec
    )]
    local: Vec<ForwardSpec>,
    /// Listens on the peer, connects from here; may be repeated
    #[arg(
        short = 'R',
        long = "remote",
        value_name = "[BIND:]PORT:HOST:PORT",
        value_parser = parse_spec
    )]
    remote: Vec<ForwardSpec>,
}

pub(crate) async fn run(app: &App, args: ForwardArgs) -> Result<Exit, Failure> {
    if args.local.is_empty() && args.remote.is_empty() {
        let message = "nothing to forward: give a port with -L, or with -R";
        return Err(Failure::usage(message).hint("alknet forward --help"));
    }
    descriptors::raise_limit();
    let home = app.home().await?;
    let peer = match args.on.as_slice() {
        [] => ":".to_owned(),
        steps => {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            steps.join("/")
        }
    };
    let place = Place {
        home: home.name().to_owned(),
        route: args.on.clone(),
        operation: String::new(),
    };
    let side = Arc::new(Side::new(app.out, home, &args.on, place.clone(), peer));
    let started = start(home, &side, args).await;
    let ports = match started {
        Ok(ports) => ports,
        Err(failed) => return Err(failed.tell(app, home, &place).await),
    };
    let mut running = JoinSet::new();
    for port in ports {
        port.announce(&side)?;
        match port {
            Port::Local(local) => running.spawn(local.serve(side.clone())),
            Port::Remote(remote) => running.spawn(remote.serve(side.clone())),
        };
    }
    let linking = side.clone();
    running.spawn(async move { linking.keep_linked().await });
    // The ports serve for ever; only the node here can end it.
    tokio::select! {
        () = home.closed() => Err(Failure::new(
            Exit::UNREACHABLE,
            "NOT_RUNNING",
            "the node of this machine has stopped",
        )
        .hint("alknet up")),
        ended = running.join_next() => Err(Failure::local(match ended {
            Some(Err(error)) => format!("a port stopped: {error}"),
            _ => "a port stopped".into(),
        })),
    }
}

/// One port, ready.
enum Port {
    Local(Local),
    Remote(Remote),
}

impl Port {
    fn announce(&self, side: &Side) -> Result<(), Failure> {
        let peer = &side.peer;
        let (direction, listen, target, line) = match self {
            Self::Local(port) => {
                let (listen, target) = (port.address.to_string(), &port.spec.target);
                let line = format!("forwarding {listen} -> {target} on {peer}");
                ("local", listen, target, line)
            }
            Self::Remote(port) => {
                let (listen, target) = (port.address.clone(), &port.spec.target);
                let line = format!("forwarding {listen} on {peer} -> {target}");
                ("remote", listen, target, line)
            }
        };
        side.out.say(&line);
        if !side.out.json {
            return Ok(());
        }
        side.out.json_line(
            &json!({ "direction": direction, "listen": listen, "target": target, "peer": peer }),
        )
    }
}

/// Opens every port, and asks whether what goes through it would be allowed.
async fn start(home: &Home, side: &Arc<Side>, args: ForwardArgs) -> Result<Vec<Port>, Failed> {
    let mut ports = Vec::new();
    for spec in args.local {
        ports.push(Port::Local(Local::listen(spec)?));
    }
    if let Some(RouteStep::Peer(peer)) = args.on.first() {
        let input = json!({ "peer": peer });
        let dialled = home.call("peers/dial", input, CallOptions::default());
        dialled.await?;
    }
    for port in &ports {
        if let Port::Local(local) = port {
            check_dial(side, &local.spec.target).await?;
        }
    }
    if !args.remote.is_empty() {
        check_accept(side).await?;
    }
    for spec in args.remote {
        ports.push(Port::Remote(Remote::open(spec, side).await?));
    }
    Ok(ports)
}

/// Asks the peer whether it would dial, which connects to nobody. What may be
/// otherwise later (a name that does not resolve yet) is only told.
async fn check_dial(side: &Side, target: &str) -> Result<(), Failed> {
    let input = json!({ "address": target, "check_only": true });
    match side.opener.open("net/dial", &input).await {
        Ok(_) => Ok(()),
        Err(error) if error.protocol_code().is_some() => Err(error.into()),
        Err(error) => {
            side.report(&format!("{target} on {}", side.peer), &error);
            Ok(())
        }
    }
}

/// A connection that nobody announced is not found by whoever may ask.
async fn check_accept(side: &Side) -> Result<(), Failed> {
    use crate::node_access::ErrorCode::NotFound;
    let nobody: Value = json!({ "connection": "0".repeat(32) });
    match side.opener.open("net/accept", &nobody).await {
        Err(error) if !error.is(NotFound) || is_no_operation(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether it is the operation that is not found.
fn is_no_operation(error: &CallError) -> bool {
    error
        .details
        .as_deref()
        .is_some_and(|details| details.get("operation").or(details.get("peer")).is_some())
}
