//! The audit log.

use crate::{Store, fault::Fault};
use alknet_core::{
    AuditOutcome, AuditRow, Surface,
    storage::{AuditFilter, AuditLog, StoreError, Timestamp},
};
use async_trait::async_trait;
use rusqlite::{Connection, Row, named_params, types::Value};
use serde::{Deserialize, de::IntoDeserializer};

#[async_trait]
impl AuditLog for Store {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let appended = self.write(move |connection| {
            rows.iter().try_for_each(|row| insert(connection, row))?;
            Ok::<_, Fault>(())
        });
        Ok(appended.await?)
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        let query = Query::of(filter);
        let listed = self.read(move |connection| Ok::<_, Fault>(query.run(connection)?));
        Ok(listed.await?)
    }
}

/// Writes one row, in whatever transaction is open.
pub(crate) fn insert(connection: &Connection, row: &AuditRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO audit (at, call_id, parent_id, caller, originator, surface, operation,
            route, resource, outcome, detail, duration_us, bytes_in, bytes_out, key, transport)
        VALUES (:at, :call_id, :parent_id, :caller, :originator, :surface, :operation,
            :route, :resource, :outcome, :detail, :duration_us, :bytes_in, :bytes_out, :key, :transport)";
    connection.prepare_cached(sql)?.execute(named_params! {
        ":at": row.at.0,
        ":call_id": row.call_id,
        ":parent_id": row.parent_id,
        ":caller": row.caller,
        ":originator": row.originator,
        ":surface": row.surface.as_str(),
        ":operation": row.operation,
        ":route": row.route,
        ":resource": row.resource,
        ":outcome": row.outcome.as_str(),
        ":detail": row.detail,
        ":duration_us": row.duration_us.cast_signed(),
        ":bytes_in": row.bytes_in.cast_signed(),
        ":bytes_out": row.bytes_out.cast_signed(),
        ":key": row.key,
        ":transport": row.transport,
    })?;
    Ok(())
}

/// A filter as SQL; selects the same rows as [`AuditFilter::matches`].
struct Query {
    conditions: Vec<&'static str>,
    values: Vec<Value>,
    limit: i64,
}

impl Query {
    fn of(filter: &AuditFilter) -> Self {
        let limit = i64::try_from(filter.limit()).unwrap_or(i64::MAX);
        let mut query = Self {
            conditions: Vec::new(),
            values: Vec::new(),
            limit,
        };
        if let Some(caller) = &filter.caller {
            query.require("caller = ?", [caller.clone()]);
        }
        if let Some(operation) = &filter.operation {
            match operation.strip_suffix('*') {
                Some(prefix) => {
                    // No text holds the byte 255, so this ends the range of
                    // what begins alike, and the index is used.
                    let end = [prefix.as_bytes(), &[0xFF]].concat();
                    let range = "operation >= ? AND operation < CAST(? AS TEXT)";
                    query.require(range, [Value::Text(prefix.into()), Value::Blob(end)]);
                }
                None => query.require("operation = ?", [operation.clone()]),
            }
        }
        match filter.outcome.as_deref() {
            Some("refused") => query.require("outcome <> ?", ["ok".to_owned()]),
            Some(outcome) => query.require("outcome = ?", [outcome.to_owned()]),
            None => {}
        }
        if let Some(call) = &filter.call_id {
            query.require(
                "(call_id = ? OR parent_id = ?)",
                [call.clone(), call.clone()],
            );
        }
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        if let Some(since) = time(&filter.since) {
            query.require("at >= ?", [since.0]);
        }
        if let Some(until) = time(&filter.until) {
            query.require("at < ?", [until.0]);
        }
        // Numbers are positive and fit: a greater cursor is beyond the end.
        let cursor = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if let Some(after) = filter.after {
            query.require("number > ?", [cursor(after)]);
        }
        if let Some(before) = filter.before {
            query.require("number < ?", [cursor(before)]);
        }
        query
    }

    fn require<V: Into<Value>>(
        &mut self,
        condition: &'static str,
        values: impl IntoIterator<Item = V>,
    ) {
        self.conditions.push(condition);
        self.values.extend(values.into_iter().map(Into::into));
    }

    fn run(mut self, connection: &Connection) -> rusqlite::Result<Vec<(u64, AuditRow)>> {
        let mut sql = String::from(
            "SELECT number, at, call_id, parent_id, caller, originator, surface, operation, route,
                resource, outcome, detail, duration_us, bytes_in, bytes_out, key, transport FROM audit",
        );
        for (index, condition) in self.conditions.iter().enumerate() {
            sql.push_str(if index == 0 { " WHERE " } else { " AND " });
            sql.push_str(condition);
        }
        sql.push_str(" ORDER BY number DESC LIMIT ?");
        self.values.push(self.limit.into());
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(self.values), read)?;
        rows.collect()
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(u64, AuditRow)> {
    let unsigned = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let audit = AuditRow {
        at: Timestamp(row.get(1)?),
        call_id: row.get(2)?,
        parent_id: row.get(3)?,
        caller: row.get(4)?,
        originator: row.get(5)?,
        surface: surface(row, 6)?,
        operation: row.get(7)?,
        route: row.get(8)?,
        resource: row.get(9)?,
        outcome: AuditOutcome::code(row.get::<_, String>(10)?.into()),
        detail: row.get(11)?,
        duration_us: unsigned(12)?,
        bytes_in: unsigned(13)?,
        bytes_out: unsigned(14)?,
        key: row.get(15)?,
        transport: row.get(16)?,
    };
    Ok((unsigned(0)?, audit))
}

/// A surface's name is owned only when it was deserialised.
fn surface(row: &Row<'_>, index: usize) -> rusqlite::Result<Surface> {
    let name: String = row.get(index)?;
    let parsed: Result<Surface, serde::de::value::Error> =
        Surface::deserialize(name.into_deserializer());
    parsed.map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
