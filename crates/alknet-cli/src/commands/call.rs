//! `alknet call`.

use crate::{
    app::App,
    channel,
    cli::parse_duration,
    commands::interact,
    failure::Failure,
    hint::{Place, explain},
    input::{self, Field, FieldValue, Words},
    node_access::{CallError, CallOptions, ErrorCode, Home, Kind, Route, RouteStep, parse_route},
};
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tokio::io::AsyncReadExt;

#[derive(Debug, Args)]
#[command(after_help = "\
ARGS, the input: nothing is `{}`; one JSON value; `-` reads JSON from standard
input; or fields:
  key=value    the operation's schema decides: text fields take it as it is,
               others read it as JSON
  key:=JSON    always JSON
  key=@FILE    the text of a file (`@-`: standard input); key:=@FILE its JSON
  a.b=1        a field of a field; `a\\.b=1` is the field `a.b`
  a=1 a=2      repetition makes an array

A subscription prints one item a line. A channel connects standard input and
output. Ctrl-C cancels the call, there as well as here.

`--on hub/nas` reaches `nas` through `hub`: `hub` lets the call on if this node
holds `peer:nas=OPERATION` there. At most four peers; `any` only as the last.

Examples:
  alknet call node/info
  alknet call fs/stat file=www/motd --on nas
  alknet call node/info --on hub/nas
  alknet call deploy/restart '{\"service\":\"web\"}' --on any --timeout 2m")]
pub(crate) struct CallArgs {
    /// What to call, such as `fs/stat`
    operation: String,
    /// The input
    #[arg(value_name = "ARGS")]
    words: Vec<String>,
    /// Where: a peer, `any` for the first that offers it, or a route `PEER/PEER`
    #[arg(long, value_name = "PEER|any", value_parser = parse_on)]
    on: Option<Route>,
    /// How long it may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Repeating the call with the same key does nothing twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// `PEER`, `any`, a route to one behind others, or `:` for this node.
pub(crate) fn parse_on(text: &str) -> Result<Route, String> {
    match text {
        ":" => Ok(Route::new()),
        text => parse_route(text).map_err(|error| error.to_string()),
    }
}

pub(crate) async fn run(app: &App, args: CallArgs) -> Result<(), Failure> {
    let words = input::read(&args.words).map_err(|error| Failure::usage(error.to_string()))?;
    let home = app.home().await?;
    let mut call = Calling {
        app,
        home,
        operation: args.operation.clone(),
        options: CallOptions {
            route: args.on.unwrap_or_default(),
            timeout: args.timeout,
            idempotency_key: args.idempotency_key,
            ..CallOptions::default()
        },
        input: json!({}),
    };
    // A refusal hides the schema, and the call itself says better why: so a
    // schema that is not found is no error yet.
    let entry = call.look_up().await;
    let stdin_is_data = reads_stdin(&words);
    call.input = typed(words, entry.as_ref()).await?;
    match entry
        .as_ref()
        .and_then(|entry| entry.get("kind"))
        .and_then(kind)
    {
        Some(kind) => call.run(kind, stdin_is_data).await,
        None => call.run_unknown(stdin_is_data).await,
    }
}

fn kind(name: &Value) -> Option<Kind> {
    serde_json::from_value(name.clone()).ok()
}

/// One call on its way.
struct Calling<'a> {
    app: &'a App,
    home: &'a Home,
    operation: String,
    options: CallOptions,
    input: Value,
}

impl Calling<'_> {
    /// The catalogue's entry, if this caller may see it: what the last node
    /// before the peer knows of it.
    async fn look_up(&self) -> Option<Value> {
        let mut before = self.options.route.clone();
        let peer = match before.pop() {
            None => None,
            Some(RouteStep::Peer(peer)) => Some(peer.to_string()),
            Some(RouteStep::Any) => {
                let at = CallOptions {
                    route: before.clone(),
                    ..CallOptions::default()
                };
                Some(self.some_peer(&at).await?)
            }
        };
        described(self.home, &self.operation, before, peer).await
    }

    /// A peer of the node at the end of this route that offers the operation.
    async fn some_peer(&self, at: &CallOptions) -> Option<String> {
        let listed = self.home.call("services/list-peers", json!({}), at.clone());
        let reply = listed.await.ok()?;
        let offers = |peer: &&Value| {
            let names = peer.get("operations").and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|name| name == self.operation.as_str()))
        };
        let peers = reply.get("peers")?.as_array()?;
        peers
            .iter()
            .find(offers)?
            .get("peer")?
            .as_str()
            .map(str::to_owned)
    }

    async fn run(mut self, kind: Kind, stdin_is_data: bool) -> Result<(), Failure> {
        let (interaction, _listening) =
            interact::listen(self.app, stdin_is_data || kind == Kind::Channel);
        self.options.interaction = interaction;
        let done = match kind {
            Kind::Query | Kind::Mutation => self.unary().await,
            Kind::Subscription => self.items().await,
            Kind::Channel => self.channel().await,
        };
        match done {
            Err(failed) => Err(self.tell(failed).await),
            Ok(()) => Ok(()),
        }
    }

    /// Tries it as a query; a node that knows better says what it is.
    async fn run_unknown(mut self, stdin_is_data: bool) -> Result<(), Failure> {
        let (interaction, _listening) = interact::listen(self.app, stdin_is_data);
        self.options.interaction = interaction;
        match self.unary().await {
            Err(Failed::Call(error)) if error.is(ErrorCode::InvalidOperationType) => {
                let details = error.details.as_deref();
                match details
                    .and_then(|details| details.get("kind"))
                    .and_then(kind)
                {
                    Some(kind) => self.run(kind, stdin_is_data).await,
                    None => Err(self.tell(Failed::Call(error)).await),
                }
            }
            Err(failed) => Err(self.tell(failed).await),
            Ok(()) => Ok(()),
        }
    }

    async fn unary(&self) -> Result<(), Failed> {
        let reply = self
            .home
            .call(&self.operation, self.input.clone(), self.options.clone())
            .await?;
        Ok(self.app.out.reply(&reply)?)
    }

    async fn items(&self) -> Result<(), Failed> {
        let items = self
            .home
            .subscribe(&self.operation, self.input.clone(), self.options.clone());
        let mut items = items.await?;
        while let Some(item) = items.next().await {
            self.app.out.item(&item?.into_value()?)?;
        }
        Ok(())
    }

    async fn channel(&self) -> Result<(), Failed> {
        let open = self
            .home
            .open(&self.operation, self.input.clone(), self.options.clone());
        let channel::Ended { result, .. } = channel::connect(open.await?, None).await?;
        let is_empty =
            result.is_null() || result.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty {
            self.app.out.say(&format!("result: {result}"));
        }
        Ok(())
    }

    async fn tell(&self, failed: Failed) -> Failure {
        let place = Place {
            home: self.home.name().to_owned(),
            route: self.options.route.clone(),
            operation: self.operation.clone(),
        };
        let told = failed.tell(self.app, self.home, &place).await;
        told.naming_domain_code()
    }
}

/// What the node at the end of a route knows of an operation, its own or a
/// peer's.
pub(crate) async fn described(
    home: &Home,
    operation: &str,
    route: Route,
    peer: Option<String>,
) -> Option<Value> {
    let mut input = json!({ "name": operation });
    if let Some(peer) = peer {
        input["peer"] = json!(peer);
    }
    let options = CallOptions {
        route,
        ..CallOptions::default()
    };
    home.call("services/schema", input, options).await.ok()
}

/// The call failed, or this side did.
#[derive(Debug)]
pub(crate) enum Failed {
    Call(CallError),
    Here(Failure),
}

impl Failed {
    /// What a person is told.
    pub(crate) async fn tell(self, app: &App, home: &Home, place: &Place) -> Failure {
        match self {
            Self::Here(failure) => failure,
            Self::Call(error) if place.is_beyond(&error) => explain(&error, place),
            Self::Call(error) => explain(&app.with_near_peers(home, error).await, place),
        }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Here(failure)
    }
}

fn reads_stdin(words: &Words) -> bool {
    match words {
        Words::Stdin => true,
        Words::Whole(_) => false,
        Words::Fields(fields) => fields.iter().any(|field| {
            matches!(&field.value, FieldValue::File(name) | FieldValue::JsonFile(name) if name == "-")
        }),
    }
}

/// Reads what the words refer to, and gives every value its type.
pub(crate) async fn typed(words: Words, entry: Option<&Value>) -> Result<Value, Failure> {
    let needs_schema = words.needs_schema();
    let fields = match words {
        Words::Whole(value) => return Ok(value),
        Words::Stdin => {
            let text = read_stdin().await?;
            let not_json = |error| Failure::usage(format!("standard input is not JSON: {error}"));
            return serde_json::from_str(&text).map_err(not_json);
        }
        Words::Fields(fields) => fields,
    };
    let mut read = Vec::with_capacity(fields.len());
    for Field { path, value } in fields {
        let value = match value {
            FieldValue::File(name) => FieldValue::File(read_file(&name).await?),
            FieldValue::JsonFile(name) => FieldValue::JsonFile(read_file(&name).await?),
            given => given,
        };
        read.push(Field { path, value });
    }
    let schema = entry
        .filter(|_| needs_schema)
        .and_then(|entry| entry.get("input"));
    input::build(read, schema).map_err(|error| Failure::usage(error.to_string()))
}

async fn read_file(name: &str) -> Result<String, Failure> {
    match name {
        "-" => read_stdin().await,
        name => {
            let text = tokio::fs::read_to_string(name).await;
            text.map_err(|error| Failure::io("read", Path::new(name), &error))
        }
    }
}

/// All of standard input, as text.
pub(crate) async fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = tokio::io::stdin().read_to_string(&mut text).await;
    read.map_err(|error| Failure::local(format!("failed to read standard input: {error}")))?;
    Ok(text)
}
