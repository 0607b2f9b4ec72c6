//! `alknet ping`.

mod tally;

pub(crate) use self::tally::path_words;
use self::tally::{Answer, Tally, millis};
use crate::{
    app::App,
    cli::parse_duration,
    commands::call::{Failed, parse_on},
    duration,
    failure::{Exit, Failure},
    hint::Place,
    node_access::{CallError, CallOptions, ErrorCode, Home, Route, RouteStep},
    output::cell,
    signals::StopSignals,
    table::one_line,
};
use clap::Args;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What every peer that is let in may call.
const OPERATION: &str = "node/ping";
/// How long the link is waited for at first.
const LINK_WAIT: Duration = Duration::from_secs(10);
/// How often the path is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Shortest pause between two calls.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is a real call, there and back, through the running node: how long it
took, the path it took, and the round trip of that path alone as the transport
knows it. When the link goes over to another path, a line says so.

Ctrl-C ends it with the summary. Exit status: 0 if there was an answer, 3 if
there was none; with --until-direct 3 also if no direct path was found.

Examples:
  alknet ping nas
  alknet ping nas -c 5 -i 0.2
  alknet ping nas --until-direct --within 30s
  alknet ping hub/nas --json")]
pub(crate) struct PingArgs {
    /// Whom: a peer, or a route `PEER/PEER`
    #[arg(value_name = "PEER", value_parser = parse_on)]
    on: Route,
    /// Ends after so many calls; Ctrl-C if not given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds from one call to the next
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    interval: Duration,
    /// Ends as soon as the path is direct
    #[arg(long)]
    until_direct: bool,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// How long it may take in all
    #[arg(short = 'w', long, value_name = "TIME", value_parser = parse_duration)]
    within: Option<Duration>,
}

/// `0.2`, or a duration such as `200ms`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = match text.parse::<f64>() {
        Ok(seconds) => {
            Duration::try_from_secs_f64(seconds).map_err(|_| "no such time".to_owned())?
        }
        Err(_) => duration::parse(text)?,
    };
    if interval < INTERVAL_MIN {
        return Err("at least 0.01 seconds".into());
    }
    Ok(interval)
}

pub(crate) async fn run(app: &App, args: PingArgs) -> Result<Exit, Failure> {
    super::log_to_stderr(app);
    let mut signals = StopSignals::listen()?;
    let first = match args.on.first() {
        Some(RouteStep::Peer(peer)) => peer.to_string(),
        Some(RouteStep::Any) => {
            return Err(Failure::usage("`any` is no peer to ping").hint("alknet peers list"));
        }
        None => return Err(Failure::usage("name a peer").hint("alknet peers list")),
    };
    let mut ping = tokio::select! {
        ping = Ping::start(app, &args, first) => ping?,
        exit = signals.next() => return Err(Failure::interrupted(exit)),
    };
    let home = ping.home;
    let within = async {
        match args.within {
            Some(most) => tokio::time::sleep(most).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = ping.run() => ended,
        () = within => Ok(()),
        _ = signals.next() => Ok(()),
        () = home.closed() => Err(
            Failure::new(Exit::UNREACHABLE, "NOT_RUNNING", "the node has stopped").hint("alknet up"),
        ),
    };
    ended.and_then(|()| ping.sum_up())
}

/// One run.
struct Ping<'a> {
    app: &'a App,
    args: &'a PingArgs,
    home: &'a Home,
    place: Place,
    /// The peer at the other end of the link.
    first: String,
    began: Instant,
    began_at: OffsetDateTime,
    /// Changes of the path that were there before, or have been told.
    changes_told: u64,
    seen: Tally,
}

impl<'a> Ping<'a> {
    /// Looks the peer up and waits for its link.
    async fn start(app: &'a App, args: &'a PingArgs, first: String) -> Result<Self, Failure> {
        let home = app.home().await?;
        let mut ping = Self {
            app,
            args,
            home,
            place: Place {
                home: home.name().to_owned(),
                route: args.on.clone(),
                operation: String::new(),
            },
            first,
            began: Instant::now(),
            began_at: OffsetDateTime::now_utc(),
            changes_told: 0,
            seen: Tally::default(),
        };
        let mut peer = ping.peer().await?;
        if peer.get("connected") != Some(&Value::Bool(true)) {
            let wait = LINK_WAIT.min(args.within.unwrap_or(LINK_WAIT));
            let input = json!({ "peer": ping.first, "timeout_ms": duration::millis(wait) });
            app.ask("peers/dial", input).await.map_err(|failure| {
                let hint = format!("alknet peers show {0}; on `{0}`: alknet status", ping.first);
                failure.hint(hint)
            })?;
            peer = ping.peer().await?;
        }
        ping.changes_told = changes(&peer).0;
        Ok(ping)
    }

    async fn peer(&self) -> Result<Value, Failure> {
        self.app
            .ask("peers/show", json!({ "peer": self.first }))
            .await
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let mut sequence = 0;
        loop {
            sequence += 1;
            let due = Instant::now() + self.args.interval;
            let answer = self.call().await?;
            let peer = self.look().await?;
            self.tell(sequence, answer, &peer)?;
            if self.is_done(&peer) || self.args.count.is_some_and(|count| sequence >= count) {
                return Ok(());
            }
            // A direct path is told, and ends the wait, as soon as it is there.
            while Instant::now() < due {
                let rest = due.saturating_duration_since(Instant::now());
                if !self.args.until_direct {
                    tokio::time::sleep(rest).await;
                    break;
                }
                tokio::time::sleep(rest.min(LOOK_EVERY)).await;
                let peer = self.look().await?;
                if self.is_done(&peer) {
                    return Ok(());
                }
            }
        }
    }

    fn is_done(&mut self, peer: &Value) -> bool {
        let is_direct = peer.pointer("/link/path").and_then(Value::as_str) == Some("direct");
        if is_direct && self.args.until_direct {
            self.seen.direct_after.get_or_insert(self.began.elapsed());
        }
        is_direct && self.args.until_direct
    }

    /// One call: how long it took and what time it is there, or why there was
    /// no answer. Errors that more calls do not cure end the command.
    async fn call(&self) -> Result<Result<(Duration, Value), CallError>, Failure> {
        let options = CallOptions {
            route: self.args.on.clone(),
            timeout: Some(self.args.timeout),
            ..CallOptions::default()
        };
        let began = Instant::now();
        let called = self.home.call(OPERATION, json!({}), options).await;
        match called {
            Ok(reply) => Ok(Ok((began.elapsed(), reply))),
            Err(error) if is_silence(&error) => Ok(Err(error)),
            Err(error) => Err(Failed::Call(error)
                .tell(self.app, self.home, &self.place)
                .await),
        }
    }

    /// How the link is now; changes of its path since the last look are told.
    async fn look(&mut self) -> Result<Value, Failure> {
        let peer = self.peer().await?;
        let (count, last) = changes(&peer);
        let new = usize::try_from(count.saturating_sub(self.changes_told)).unwrap_or(usize::MAX);
        self.changes_told = count;
        for change in last.iter().skip(last.len().saturating_sub(new)) {
            self.tell_change(change)?;
        }
        Ok(peer)
    }

    fn tell_change(&self, change: &Value) -> Result<(), Failure> {
        let at = change.get("at").and_then(Value::as_str).unwrap_or_default();
        let after = OffsetDateTime::parse(at, &Rfc3339).map(|at| at - self.began_at);
        let after_ms = after.map_or(0.0, |after| (after.as_seconds_f64() * 1000.0).max(0.0));
        let (from, to) = (change.get("from"), change.get("to"));
        if self.app.out.json {
            return self.app.out.json_line(&json!({
                "type": "path", "at": at, "after_ms": after_ms, "from": from, "to": to,
            }));
        }
        let (from, to) = (path_words(from), path_words(to));
        let line = format!("path: {from} -> {to} after {:.1} s", after_ms / 1000.0);
        self.app.out.text(&one_line(&line))
    }

    fn tell(
        &mut self,
        sequence: u64,
        answer: Result<(Duration, Value), CallError>,
        peer: &Value,
    ) -> Result<(), Failure> {
        let link = peer.get("link");
        let path = |name: &str| link.and_then(|link| link.get(name));
        match answer {
            Ok((took, reply)) => {
                let seen = Answer {
                    took,
                    is_direct: path("path").and_then(Value::as_str) == Some("direct"),
                    clock_ahead: ahead(&reply, took),
                };
                self.seen.answered(seen);
                if self.app.out.json {
                    return self.app.out.json_line(&json!({
                        "type": "answer", "sequence": sequence, "ms": millis(took), "path": path("path"),
                        "address": path("address"), "path_rtt_ms": path("rtt_ms"), "at": reply.get("at"),
                    }));
                }
                let rtt = path("rtt_ms").and_then(Value::as_f64);
                let rtt = rtt.map_or_else(String::new, |rtt| format!(" (path {rtt:.1} ms)"));
                let line = format!(
                    "answer {sequence} from {} in {:.1} ms, {}{rtt}",
                    self.name(),
                    millis(took),
                    path_words(link),
                );
                self.app.out.text(&one_line(&line))
            }
            Err(error) => {
                self.seen.lost();
                if self.app.out.json {
                    return self.app.out.json_line(&json!({
                        "type": "lost", "sequence": sequence, "code": error.code, "message": error.message,
                        "state": path("state"),
                    }));
                }
                let line = format!(
                    "no answer {sequence} from {}: {}",
                    self.name(),
                    error.message
                );
                self.app.out.text(&one_line(&line))
            }
        }
    }

    fn name(&self) -> String {
        let steps: Vec<String> = self.args.on.iter().map(ToString::to_string).collect();
        steps.join("/")
    }

    fn sum_up(&self) -> Result<Exit, Failure> {
        let seen = &self.seen;
        if self.app.out.json {
            let mut summary = seen.to_json();
            summary["peer"] = json!(self.name());
            self.app.out.json_line(&summary)?;
        } else {
            self.app.out.text(&seen.render(&self.name()))?;
        }
        if let Some(words) = seen.clock_words() {
            self.app
                .out
                .warn(&format!("the clock of {} is {words}", self.name()));
        }
        let found = !self.args.until_direct || seen.direct_after.is_some();
        if seen.has_answer() && !found {
            self.app.out.say(&format!(
                "no direct path: `alknet netcheck`, here and on {}, says why",
                self.name()
            ));
        }
        Ok(if seen.has_answer() && found {
            Exit::FINE
        } else {
            Exit::UNREACHABLE
        })
    }
}

/// How often the path has changed, and the last changes.
fn changes(peer: &Value) -> (u64, Vec<Value>) {
    let count = peer.pointer("/link/path_changes").and_then(Value::as_u64);
    let last = peer.pointer("/link/changes").and_then(Value::as_array);
    (count.unwrap_or_default(), last.cloned().unwrap_or_default())
}

/// Errors that a network makes.
fn is_silence(error: &CallError) -> bool {
    matches!(
        error.protocol_code(),
        Some(ErrorCode::Unavailable | ErrorCode::Lost | ErrorCode::Timeout)
    )
}

/// How far the clock there is ahead of the one here, in milliseconds; the
/// answer was made in the middle of the wait.
fn ahead(reply: &Value, took: Duration) -> Option<f64> {
    let there = OffsetDateTime::parse(&cell(reply.get("at")), &Rfc3339).ok()?;
    let here = OffsetDateTime::now_utc() - took / 2;
    Some((there - here).as_seconds_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn intervals_are_seconds_or_durations() {
        assert_eq!(parse_interval("0.2"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_interval("200ms"), Ok(Duration::from_millis(200)));
        for wrong in ["0", "-1", "0.001", "NaN", "soon", "1e300"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_a_network_does_is_a_lost_answer() {
        for code in ErrorCode::ALL {
            let want = matches!(code.as_str(), "UNAVAILABLE" | "LOST" | "TIMEOUT");
            assert_eq!(is_silence(&CallError::new(*code, "x")), want, "{code}");
        }
    }

    #[test]
    fn a_clock_is_compared_at_the_middle_of_the_wait() {
        let there = OffsetDateTime::now_utc() + time::Duration::hours(1);
        let reply = json!({ "at": there.format(&Rfc3339).unwrap() });
        let ahead = ahead(&reply, Duration::from_secs(2)).unwrap();
        // The hour, and the second that the answer was on its way.
        assert!((3_601_000.0 - ahead).abs() < 500.0, "{ahead}");
        assert_eq!(super::ahead(&json!({}), Duration::ZERO), None);
    }
}
