//! `events/*`: what happened here, from any point that is still kept.

use super::until_stopping;
use crate::node::Shared;
use alknet_core::{
    CallError, Context, ErrorCode, Operation, Registration,
    storage::{EVENTS_PAGE_MAX, Event, EventCursor, EventPage, EventSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::VecDeque, sync::Arc};

/// Events of a page, unless said otherwise.
const PAGE_DEFAULT: u32 = 100;
/// Events that a subscription reads ahead of its reader.
const AHEAD: u32 = 100;

/// An event as listed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct EventItem {
    /// Its place: `from` this cursor, reading goes on after it.
    cursor: String,
    /// When it happened.
    at: String,
    /// What sort of thing, such as `peer/joined`.
    kind: String,
    /// What it happened to.
    about: String,
    /// Who did it; `host` for the node itself.
    caller: String,
    /// The call that did it, as the audit log has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call_id: Option<String>,
    /// A few particulars.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    details: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ListInput {
    /// Begins after this cursor; at the oldest event kept if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Only kinds that begin so, such as `peer/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Most events returned; 100 if not given, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct EventList {
    /// The events, the oldest first.
    events: Vec<EventItem>,
    /// From here, reading goes on.
    next: String,
    /// From here, everything kept can be read.
    oldest: String,
    /// From here, what comes next can be read.
    newest: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct SubscribeInput {
    /// Begins after this cursor; with what comes next if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Only kinds that begin so, such as `peer/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (list_for, subscribe_for) = (shared.clone(), shared.clone());
    let item = json!({ "cursor": "9f86d081884c7d65-7", "at": "2026-01-01T00:00:00.000Z", "kind": "peer/joined", "about": "laptop", "caller": "laptop", "call_id": "0198c0de-0000-7000-8000-000000000000", "details": { "invite": "5e884898" } });
    let place = |n: u64| format!("9f86d081884c7d65-{n}");
    vec![
        Operation::query("events/list", "Lists what happened here, oldest first.")
            .example(json!({ "kind": "peer/" }), json!({ "events": [item], "next": place(7), "oldest": place(0), "newest": place(7) }))
            .handler(move |cx: Context, input: ListInput| {
                let shared = list_for.clone();
                async move { list(&shared, &cx, input).await }
            }),
        Operation::subscription("events/subscribe", "Follows what happens here, from any point that is still kept.")
            .requires("events:list")
            .resumable("cursor", "from")
            .example(json!({ "kind": "peer/" }), item)
            .stream(move |cx: Context, input: SubscribeInput| {
                let shared = subscribe_for.clone();
                async move {
                    let follower = Follower::begin(&shared, cx, input).await?;
                    Ok(until_stopping(&shared, follower.items()))
                }
            }),
    ]
}

async fn list(shared: &Shared, cx: &Context, input: ListInput) -> Result<EventList, CallError> {
    let limit = input.limit.unwrap_or(PAGE_DEFAULT).min(EVENTS_PAGE_MAX);
    let kind = input.kind.unwrap_or_default();
    let (page, from) = match parse(input.from.as_deref())? {
        Some(from) => (read(shared, cx, from.number, &kind, limit).await?, from),
        None => {
            let page = read(shared, cx, 0, &kind, limit).await?;
            let oldest = page.span.oldest_cursor();
            (page, oldest)
        }
    };
    check(&page.span, &from)?;
    Ok(EventList {
        next: page.span.cursor(page.through).to_string(),
        oldest: page.span.oldest_cursor().to_string(),
        newest: page.span.newest_cursor().to_string(),
        events: page
            .events
            .into_iter()
            .map(|event| show(&page.span, event))
            .collect(),
    })
}

/// A subscription: a place in the log, and a page that was read ahead. The
/// next one is read when this one was taken, so that a slow reader holds
/// nothing up but itself.
struct Follower {
    shared: Arc<Shared>,
    cx: Context,
    newest: tokio::sync::watch::Receiver<u64>,
    at: EventCursor,
    kind: String,
    ahead: VecDeque<EventItem>,
}

impl Follower {
    async fn begin(
        shared: &Arc<Shared>,
        cx: Context,
        input: SubscribeInput,
    ) -> Result<Self, CallError> {
        let newest = shared.events.newest_event();
        let from = parse(input.from.as_deref())?;
        // Refused at once, not with the first item.
        let span = read(shared, &cx, u64::MAX, "", 0).await?.span;
        let at = from.unwrap_or_else(|| span.newest_cursor());
        check(&span, &at)?;
        Ok(Self {
            shared: shared.clone(),
            cx,
            newest,
            at,
            kind: input.kind.unwrap_or_default(),
            ahead: VecDeque::new(),
        })
    }

    fn items(
        self,
    ) -> impl futures::Stream<Item = Result<EventItem, CallError>> + Send + 'static + use<> {
        futures::stream::try_unfold(self, |mut follower| async move {
            let item = follower.next().await?;
            Ok(item.map(|item| (item, follower)))
        })
    }

    async fn next(&mut self) -> Result<Option<EventItem>, CallError> {
        loop {
            if let Some(item) = self.ahead.pop_front() {
                return Ok(Some(item));
            }
            // Before reading: what is written from here on wakes it again.
            self.newest.borrow_and_update();
            let (after, kind) = (self.at.number, &self.kind);
            let page = read(&self.shared, &self.cx, after, kind, AHEAD).await?;
            // Also one that was slower than the log is long is told.
            check(&page.span, &self.at)?;
            self.at.number = page.through;
            let span = page.span;
            let events = page.events.into_iter();
            self.ahead.extend(events.map(|event| show(&span, event)));
            if self.ahead.is_empty() && self.newest.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

async fn read(
    shared: &Shared,
    cx: &Context,
    after: u64,
    kind: &str,
    limit: u32,
) -> Result<EventPage, CallError> {
    let page = shared.events.read_events(after, kind, limit).await;
    page.map_err(|error| CallError::storage(cx.call_id(), &error))
}

fn parse(from: Option<&str>) -> Result<Option<EventCursor>, CallError> {
    let Some(text) = from else { return Ok(None) };
    let parsed = EventCursor::parse(text);
    let wrong = || CallError::invalid_field("/from", "a cursor is one that an event came with");
    parsed.ok_or_else(wrong).map(Some)
}

/// What lies after the cursor is all there, or its holder is told.
fn check(span: &EventSpan, cursor: &EventCursor) -> Result<(), CallError> {
    if span.covers(cursor) {
        return Ok(());
    }
    let why = if cursor.epoch != span.epoch {
        "is of another history: this node's store was restored from a backup, or is new"
    } else if cursor.number > span.newest {
        "is ahead of everything that happened here"
    } else {
        "is older than what is kept"
    };
    let (oldest, newest) = (span.oldest_cursor(), span.newest_cursor());
    let message = format!("the cursor `{cursor}` {why}; the oldest one is `{oldest}`");
    let details = json!({ "oldest": oldest.to_string(), "newest": newest.to_string() });
    Err(CallError::new(ErrorCode::Gone, message).with_details(details))
}

fn show(span: &EventSpan, event: Event) -> EventItem {
    let cursor = span.cursor(event.number).to_string();
    let event = event.event;
    EventItem {
        cursor,
        at: event.at.to_string(),
        kind: event.kind.as_str().to_owned(),
        about: event.about,
        caller: event.caller,
        call_id: event.call_id,
        details: event.details,
    }
}
