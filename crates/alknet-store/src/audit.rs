//! The audit log.

use crate::{Store, fault::Fault};
use alknet_core::{
    AuditOutcome, AuditRow, Surface,
    storage::{AuditFilter, AuditLog, AuditSpan, StoreError, Timestamp},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, named_params, types::Value};
use serde::{Deserialize, de::IntoDeserializer};
use tokio::sync::watch;

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

    async fn span(&self) -> Result<AuditSpan, StoreError> {
        let span = self.read(|connection| Ok::<_, Fault>(span(connection)?));
        Ok(span.await?)
    }

    fn written(&self) -> watch::Receiver<u64> {
        self.newest_audit_row()
    }

    async fn prune_rows(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError> {
        let pruned = self.write(move |connection| {
            let (gone, through) = prune(connection, before, rows_max, batch)?;
            if gone > 0 {
                insert(connection, &row.with_removed(gone, through))?;
            }
            Ok::<_, Fault>(gone)
        });
        Ok(pruned.await?)
    }
}

/// The newest number ever given.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    // The newest row may have been removed.
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'audit'";
    let newest = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get::<_, i64>(0));
    Ok(newest.optional()?.unwrap_or(0).cast_unsigned())
}

fn span(connection: &Connection) -> rusqlite::Result<AuditSpan> {
    let newest = newest(connection)?;
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(number) FROM audit")?
        .query_row([], |row| row.get(0))?;
    Ok(AuditSpan {
        removed: oldest.map_or(newest, |oldest| oldest.cast_unsigned() - 1),
        newest,
    })
}

/// Removes from the oldest on, so that what is kept has no gaps: how many went,
/// and up to which number.
fn prune(
    connection: &Connection,
    before: Timestamp,
    rows_max: u64,
    batch: u32,
) -> rusqlite::Result<(u64, u64)> {
    // Numbers have no gaps, so nothing need be counted.
    let AuditSpan { removed, newest } = span(connection)?;
    let too_many = match newest - removed > rows_max {
        // Room for the row that tells of it.
        true => newest.saturating_sub(rows_max.saturating_sub(1)),
        false => 0,
    };
    let sql = "SELECT number, at FROM audit ORDER BY number LIMIT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut oldest = statement.query([batch])?;
    let mut through = removed;
    while let Some(row) = oldest.next()? {
        let (number, at): (i64, i64) = (row.get(0)?, row.get(1)?);
        let number = number.cast_unsigned();
        if at >= before.0 && number > too_many {
            break;
        }
        through = number;
    }
    drop(oldest);
    if through == removed {
        return Ok((0, removed));
    }
    let gone = connection
        .prepare_cached("DELETE FROM audit WHERE number <= ?1")?
        .execute([through.cast_signed()])?;
    Ok((gone as u64, through))
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
    oldest_first: bool,
}

impl Query {
    fn of(filter: &AuditFilter) -> Self {
        let limit = i64::try_from(filter.limit()).unwrap_or(i64::MAX);
        let mut query = Self {
            conditions: Vec::new(),
            values: Vec::new(),
            limit,
            oldest_first: filter.oldest_first,
        };
        if let Some(caller) = &filter.caller {
            query.require("caller = ?", [caller.clone()]);
        }
        let operation = [
            "operation = ?",
            "operation >= ? AND operation < CAST(? AS TEXT)",
        ];
        query.require_start(operation, filter.operation.as_deref());
        let originator = [
            "originator = ?",
            "originator >= ? AND originator < CAST(? AS TEXT)",
        ];
        query.require_start(originator, filter.originator.as_deref());
        let resource = [
            "resource = ?",
            "resource >= ? AND resource < CAST(? AS TEXT)",
        ];
        query.require_start(resource, filter.resource.as_deref());
        for (condition, value) in [
            ("surface = ?", &filter.surface),
            ("key = ?", &filter.key),
            ("transport = ?", &filter.transport),
        ] {
            if let Some(value) = value {
                query.require(condition, [value.clone()]);
            }
        }
        if let Some(step) = &filter.route {
            query.require_step(step);
        }
        if let Some(least) = filter.took_ms_min {
            let least = i64::try_from(least.saturating_mul(1_000)).unwrap_or(i64::MAX);
            // Unsigned numbers are kept by their bits.
            query.require("(duration_us >= ? OR duration_us < 0)", [least]);
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

    /// `[is, begins]`: which of the two is meant, a `*` at the end tells.
    fn require_start(&mut self, [is, begins]: [&'static str; 2], want: Option<&str>) {
        let Some(want) = want else { return };
        match want.strip_suffix('*') {
            Some(prefix) => {
                // No text holds the byte 255, so this ends the range of what
                // begins alike, and an index is used.
                let end = [prefix.as_bytes(), &[0xFF]].concat();
                self.require(begins, [Value::Text(prefix.into()), Value::Blob(end)]);
            }
            None => self.require(is, [want.to_owned()]),
        }
    }

    /// A route is its steps with `/` between them; a step has none.
    fn require_step(&mut self, step: &str) {
        let is_one = !step.is_empty() && !step.contains('/');
        self.require(
            "(? AND instr('/' || route || '/', ?) > 0)",
            [
                Value::Integer(i64::from(is_one)),
                Value::Text(format!("/{step}/")),
            ],
        );
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
        sql.push_str(match self.oldest_first {
            true => " ORDER BY number LIMIT ?",
            false => " ORDER BY number DESC LIMIT ?",
        });
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
