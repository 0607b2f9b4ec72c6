//! `audit/*`: who called what, and how it ended.

use crate::node::Shared;
use alknet_core::{
    AuditRow, CallError, Context, ErrorCode, Operation, Registration, Schema,
    storage::{AuditFilter, AuditSpan, Timestamp},
};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc};

/// Rows that a follower reads ahead of its reader.
const AHEAD: u32 = 500;

fn row_schema() -> Value {
    json!({
        "type": "object",
        "required": ["n", "at", "call_id", "caller", "surface", "operation", "outcome", "duration_us", "bytes_in", "bytes_out"],
        "properties": {
            "n": { "type": "integer", "description": "Its number, in the order of writing." },
            "at": { "type": "string", "description": "When the call began." },
            "call_id": { "type": "string" }, "parent_id": { "type": "string" },
            "caller": { "type": "string", "description": "Who was checked." },
            "originator": { "type": "string", "description": "Who is said to have started it: node/label." },
            "surface": { "type": "string" }, "operation": { "type": "string" }, "route": { "type": "string" },
            "resource": { "type": "string" }, "outcome": { "type": "string", "description": "`ok`, or the error's code." },
            "detail": { "type": "string" }, "duration_us": { "type": "integer" },
            "key": { "type": "string", "description": "The API key that was presented, by its id." },
            "transport": { "type": "string", "description": "The peer whose connection carried the call, where a presented key made somebody else its caller." },
            "bytes_in": { "type": "integer" }, "bytes_out": { "type": "integer" },
        },
    })
}

fn schema(value: Value) -> Schema {
    Schema::from_value(value).expect("a literal schema")
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (list_for, watch_for) = (shared.clone(), shared.clone());
    let row = json!({ "n": 7, "at": "2026-01-01T00:00:00.000Z", "call_id": "0198c0de-0000-7000-8000-000000000000", "caller": "laptop", "surface": "call", "operation": "node/info", "outcome": "ok", "duration_us": 120, "bytes_in": 2, "bytes_out": 310 });
    vec![
        Operation::query("audit/list", "Lists calls and refusals, newest first unless asked otherwise.")
            .output_schema(schema(json!({ "type": "object", "required": ["rows", "removed", "newest"], "properties": {
                "rows": { "type": "array", "items": row_schema() },
                "removed": { "type": "integer", "description": "Rows up to this number were removed." },
                "newest": { "type": "integer", "description": "The newest number when the list was begun: `audit/watch` after it goes on without a gap." },
            } })))
            .example(json!({ "caller": "laptop" }), json!({ "rows": [row], "removed": 0, "newest": 7 }))
            .handler(move |cx: Context, filter: AuditFilter| {
                let shared = list_for.clone();
                async move { list(&shared, &cx, &filter).await }
            }),
        Operation::subscription("audit/watch", "Follows calls and refusals as they are written, oldest first.")
            .requires("audit:list")
            .resumable("n", "after")
            .output_schema(schema(row_schema()))
            .example(json!({ "outcome": "refused" }), row)
            .stream(move |cx: Context, filter: AuditFilter| {
                let shared = watch_for.clone();
                async move {
                    let filter = from_now(&shared, &cx, filter).await?;
                    Ok(super::until_stopping(&shared, watch(shared.clone(), cx, filter)))
                }
            }),
    ]
}

async fn rows(
    shared: &Shared,
    cx: &Context,
    filter: &AuditFilter,
) -> Result<Vec<Value>, CallError> {
    check_times(filter)?;
    let found = shared
        .audit_log
        .list(filter)
        .await
        .map_err(|error| CallError::storage(cx.call_id(), &error))?;
    Ok(found.into_iter().map(|(n, row)| show(n, &row)).collect())
}

fn check_times(filter: &AuditFilter) -> Result<(), CallError> {
    for (pointer, time) in [("/since", &filter.since), ("/until", &filter.until)] {
        if time
            .as_deref()
            .is_some_and(|text| Timestamp::parse(text).is_none())
        {
            return Err(CallError::invalid_field(
                pointer,
                "a time is written as in RFC 3339: 2026-01-31T12:00:00Z",
            ));
        }
    }
    Ok(())
}

fn show(n: u64, row: &AuditRow) -> Value {
    let mut value = serde_json::to_value(row).unwrap_or_default();
    value["n"] = json!(n);
    value
}

async fn list(shared: &Shared, cx: &Context, filter: &AuditFilter) -> Result<Value, CallError> {
    // Before the rows: what is written in between is listed, or followed.
    let span = span(shared, cx).await?;
    let rows = rows(shared, cx, filter).await?;
    Ok(json!({ "rows": rows, "removed": span.removed, "newest": span.newest }))
}

async fn span(shared: &Shared, cx: &Context) -> Result<AuditSpan, CallError> {
    let span = shared.audit_log.span().await;
    span.map_err(|error| CallError::storage(cx.call_id(), &error))
}

/// Without a cursor a follower begins with what comes next.
async fn from_now(
    shared: &Shared,
    cx: &Context,
    mut filter: AuditFilter,
) -> Result<AuditFilter, CallError> {
    // Refused at once, not with the first row.
    check_times(&filter)?;
    if filter.after.is_none() {
        filter.after = Some(span(shared, cx).await?.newest);
    }
    filter.limit = Some(AHEAD);
    filter.oldest_first = true;
    Ok(filter)
}

/// A place in the log, and rows that were read ahead. More are read when these
/// were taken, so that a slow reader holds nothing up but itself.
struct Follower {
    shared: Arc<Shared>,
    cx: Context,
    filter: AuditFilter,
    written: tokio::sync::watch::Receiver<u64>,
    ahead: VecDeque<Value>,
}

fn watch(
    shared: Arc<Shared>,
    cx: Context,
    filter: AuditFilter,
) -> impl futures::Stream<Item = Result<Value, CallError>> + Send + 'static {
    let follower = Follower {
        written: shared.audit_log.written(),
        shared,
        cx,
        filter,
        ahead: VecDeque::new(),
    };
    futures::stream::try_unfold(follower, |mut follower| async move {
        let row = follower.next().await?;
        Ok(row.map(|row| (row, follower)))
    })
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Value>, CallError> {
        loop {
            if let Some(row) = self.ahead.pop_front() {
                return Ok(Some(row));
            }
            // Before reading: what is written from here on wakes it again, and
            // what was written until here is read now, or does not match.
            let through = *self.written.borrow_and_update();
            let found = rows(&self.shared, &self.cx, &self.filter).await?;
            self.still_kept().await?;
            let last = found.last().and_then(|row| row["n"].as_u64());
            let after = self.filter.after.unwrap_or_default();
            self.filter.after = match found.len() < self.filter.limit() {
                true => Some(last.unwrap_or(after).max(after).max(through)),
                false => last,
            };
            self.ahead.extend(found);
            if self.ahead.is_empty() && self.written.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// A reader that was slower than rows are kept is told what it missed.
    async fn still_kept(&self) -> Result<(), CallError> {
        let span = span(&self.shared, &self.cx).await?;
        let after = self.filter.after.unwrap_or_default();
        if span.removed <= after {
            return Ok(());
        }
        let message = format!(
            "rows up to number {} were removed before they were read",
            span.removed
        );
        let details = json!({ "removed": span.removed, "newest": span.newest });
        Err(CallError::new(ErrorCode::Gone, message).with_details(details))
    }
}
