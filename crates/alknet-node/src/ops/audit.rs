//! `audit/*`: who called what, and how it ended.

use crate::node::Shared;
use alknet_core::{
    AuditRow, CallError, Context, Operation, Registration, Schema,
    storage::{AuditFilter, Timestamp},
};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How often a follower looks for new rows.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
        Operation::query("audit/list", "Lists calls and refusals, newest first.")
            .output_schema(schema(json!({ "type": "object", "required": ["rows"], "properties": { "rows": { "type": "array", "items": row_schema() } } })))
            .example(json!({ "caller": "laptop" }), json!({ "rows": [row] }))
            .handler(move |cx: Context, filter: AuditFilter| {
                let shared = list_for.clone();
                async move { Ok(json!({ "rows": rows(&shared, &cx, &filter).await? })) }
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
    let found = shared
        .audit_log
        .list(filter)
        .await
        .map_err(|error| CallError::internal(cx.call_id(), &error))?;
    Ok(found.into_iter().map(|(n, row)| show(n, &row)).collect())
}

fn show(n: u64, row: &AuditRow) -> Value {
    let mut value = serde_json::to_value(row).unwrap_or_default();
    value["n"] = json!(n);
    value
}

/// Without a cursor a follower begins with what comes next.
async fn from_now(
    shared: &Shared,
    cx: &Context,
    mut filter: AuditFilter,
) -> Result<AuditFilter, CallError> {
    if filter.after.is_none() {
        let newest = AuditFilter {
            limit: Some(1),
            ..AuditFilter::default()
        };
        let newest = rows(shared, cx, &newest).await?;
        filter.after = Some(
            newest
                .first()
                .and_then(|row| row["n"].as_u64())
                .unwrap_or(0),
        );
    }
    filter.limit = Some(1000);
    Ok(filter)
}

fn watch(
    shared: Arc<Shared>,
    cx: Context,
    filter: AuditFilter,
) -> impl futures::Stream<Item = Result<Value, CallError>> + Send + 'static {
    futures::stream::try_unfold(
        (shared, cx, filter, VecDeque::new()),
        |(shared, cx, mut filter, mut waiting)| async move {
            loop {
                if let Some(row) = waiting.pop_front() {
                    return Ok(Some((row, (shared, cx, filter, waiting))));
                }
                let mut found = unseen(&shared, &cx, &filter).await?;
                if let Some(n) = found.first().and_then(|row: &Value| row["n"].as_u64()) {
                    filter.after = Some(n);
                }
                found.reverse();
                waiting.extend(found);
                if waiting.is_empty() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        },
    )
}

/// All rows after the cursor, newest first, however many pages they take.
async fn unseen(
    shared: &Shared,
    cx: &Context,
    filter: &AuditFilter,
) -> Result<Vec<Value>, CallError> {
    let mut all = Vec::new();
    let mut page = filter.clone();
    loop {
        let found = rows(shared, cx, &page).await?;
        let full = found.len() >= filter.limit();
        page.before = found.last().and_then(|row| row["n"].as_u64());
        all.extend(found);
        if !full {
            return Ok(all);
        }
    }
}
