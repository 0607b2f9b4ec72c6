//! The node's own log, kept in memory and followed through `node/logs`. The
//! program installs it as a layer of its subscriber.

use alknet_core::storage::{SharedClock, Timestamp, system_clock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::broadcast;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Lines kept.
pub const LINES_KEPT: usize = 2000;
/// Characters of one field that are kept.
const FIELD_CHARS_MAX: usize = 2048;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The module.
    pub target: String,
    /// The sentence.
    pub message: String,
    /// Named values.
    #[serde(default)]
    pub fields: Map<String, Value>,
}

struct Shared {
    lines: Mutex<VecDeque<LogLine>>,
    live: broadcast::Sender<LogLine>,
    clock: SharedClock,
}

/// The last lines of the log; a layer of `tracing`. Cheap to clone.
#[derive(Clone)]
pub struct LogBuffer(Arc<Shared>);

impl Default for LogBuffer {
    fn default() -> Self {
        Self(Arc::new(Shared {
            lines: Mutex::default(),
            live: broadcast::Sender::new(1024),
            clock: system_clock(),
        }))
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogBuffer")
    }
}

impl LogBuffer {
    /// The last lines, oldest first, and the ones that follow.
    pub(crate) fn follow(&self, lines: usize) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let kept = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Subscribed under the lock: no line is missed, none comes twice.
        let live = self.0.live.subscribe();
        (
            kept.iter()
                .skip(kept.len().saturating_sub(lines))
                .cloned()
                .collect(),
            live,
        )
    }

    fn push(&self, line: LogLine) {
        let mut kept = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        // Nobody following is fine.
        let _ = self.0.live.send(line);
    }
}

/// Whether `level` is at least as severe as `least`.
pub(crate) fn is_severe(level: &str, least: &str) -> bool {
    let rank = |text: &str| {
        ["error", "warn", "info", "debug", "trace"]
            .iter()
            .position(|name| *name == text)
            .unwrap_or(usize::MAX)
    };
    rank(level) <= rank(least)
}

impl<S: Subscriber> Layer<S> for LogBuffer {
    fn on_event(&self, event: &Event<'_>, _cx: Context<'_, S>) {
        let meta = event.metadata();
        // Other crates' details are for a debugger, not for an operator.
        if *meta.level() > Level::INFO && !meta.target().starts_with("alknet") {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.push(LogLine {
            at: (self.0.clock)(),
            level: meta.level().as_str().to_ascii_lowercase(),
            target: meta.target().to_owned(),
            message: fields.message,
            fields: fields.others,
        });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.others.insert(field.name().into(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text: String = format!("{value:?}").chars().take(FIELD_CHARS_MAX).collect();
        self.put(field, Value::String(text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(
            field,
            Value::String(value.chars().take(FIELD_CHARS_MAX).collect()),
        );
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
