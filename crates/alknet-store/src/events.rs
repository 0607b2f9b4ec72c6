//! What happened, in order: honker's stream, read and pruned with plain SQL.
//!
//! Publishing is one insertion in the transaction that is open, the one that
//! honker's own function makes (it prepares the statement each time), so an
//! event is committed with its change or not at all. Its table has a number,
//! a topic, a key and a text for each row; here the key is the kind, and the
//! text a JSON object.

use crate::{Store, audit, fault::Fault};
use alknet_core::{
    AuditRow,
    storage::{
        EVENTS_PAGE_MAX, Event, EventKind, EventLog, EventPage, EventSpan, NewEvent, StoreError,
        Timestamp,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use tokio::sync::watch;

/// honker's stream may carry more than our events one day.
const TOPIC: &str = "alknet";
/// Where [`Store`]'s `meta` keeps the epoch.
const EPOCH: &str = "events-epoch";

/// An event as honker keeps it.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    /// Milliseconds since 1970.
    at: i64,
    about: Cow<'a, str>,
    caller: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    details: Cow<'a, Map<String, Value>>,
}

/// Writes one event in whatever transaction is open on the store's writing
/// connection, as [`Store::write`] hands it out; readers are told after the
/// commit.
///
/// # Errors
///
/// What SQLite says.
pub fn insert(connection: &Connection, event: &NewEvent) -> rusqlite::Result<()> {
    let text = Text {
        at: event.at.0,
        about: Cow::Borrowed(&event.about),
        caller: Cow::Borrowed(&event.caller),
        call_id: event.call_id.as_deref().map(Cow::Borrowed),
        details: Cow::Borrowed(&event.details),
    };
    let text = serde_json::to_string(&text)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    // What `honker_stream_publish` does.
    let sql = "INSERT INTO _honker_stream (topic, key, payload) VALUES (?1, ?2, ?3)";
    let row = params![TOPIC, event.kind.as_str(), text];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// Begins a new epoch in whatever transaction is open: every cursor given out
/// so far is of another history from then on. For a store that was restored.
///
/// # Errors
///
/// What SQLite says.
pub fn new_epoch(connection: &Connection) -> rusqlite::Result<()> {
    // SQLite seeds its generator from the system.
    let sql = "INSERT INTO meta (key, value) VALUES (?1, lower(hex(randomblob(8))))
        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, [EPOCH]).map(drop)
}

/// Gives a store that has none its first epoch.
pub(crate) fn ensure_epoch(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT 1 FROM meta WHERE key = ?1";
    match connection.prepare(sql)?.exists([EPOCH])? {
        true => Ok(()),
        false => new_epoch(connection),
    }
}

/// The newest number ever given.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    // The newest row may have been removed.
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = '_honker_stream'";
    let newest = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get::<_, i64>(0));
    Ok(newest.optional()?.unwrap_or(0).cast_unsigned())
}

impl Store {
    /// Begins a new epoch of events, durably: a subscriber that comes with a
    /// cursor of before is told that it is of another history. For a store
    /// that was restored from a backup, before a node runs on it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn new_epoch(&self) -> Result<(), StoreError> {
        let begun = self.write(|connection| Ok::<_, Fault>(new_epoch(connection)?));
        Ok(begun.await?)
    }
}

#[async_trait]
impl EventLog for Store {
    async fn append_events(
        &self,
        events: Vec<NewEvent>,
        rows: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        if events.is_empty() && rows.is_empty() {
            return Ok(());
        }
        let appended = self.write(move |connection| {
            rows.iter()
                .try_for_each(|row| audit::insert(connection, row))?;
            events
                .iter()
                .try_for_each(|event| insert(connection, event))?;
            Ok::<_, Fault>(())
        });
        Ok(appended.await?)
    }

    async fn read_events(
        &self,
        after: u64,
        kind: &str,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let kind = kind.to_owned();
        let page = Store::read(self, move |connection| {
            Ok::<_, Fault>(page(connection, after, &kind, limit.min(EVENTS_PAGE_MAX))?)
        });
        Ok(page.await?)
    }

    async fn prune_events(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError> {
        let pruned = self.write(move |connection| {
            let (gone, through) = prune(connection, before, rows_max, batch)?;
            if gone > 0 {
                audit::insert(connection, &row.with_removed(gone, through))?;
            }
            Ok::<_, Fault>(gone)
        });
        Ok(pruned.await?)
    }

    fn newest_event(&self) -> watch::Receiver<u64> {
        Store::newest_number(self)
    }
}

/// Runs in one read transaction: the span is of the moment of the rows.
fn page(
    connection: &Connection,
    after: u64,
    kind: &str,
    limit: u32,
) -> rusqlite::Result<EventPage> {
    let span = span(connection)?;
    // A prefix is compared as bytes: `LIKE` would read meaning into `_`.
    let sql = "SELECT offset, key, payload FROM _honker_stream
        WHERE topic = ?1 AND offset > ?2 AND substr(key, 1, ?3) = ?4 ORDER BY offset LIMIT ?5";
    let from = i64::try_from(after).unwrap_or(i64::MAX);
    let characters = i64::try_from(kind.chars().count()).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![TOPIC, from, characters, kind, limit], event)?;
    let events = rows.collect::<rusqlite::Result<Vec<Event>>>()?;
    let through = match events.last() {
        Some(last) if events.len() == limit as usize => last.number,
        _ if limit == 0 => after,
        _ => span.newest.max(after),
    };
    Ok(EventPage {
        span,
        events,
        through,
    })
}

fn span(connection: &Connection) -> rusqlite::Result<EventSpan> {
    let epoch = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([EPOCH], |row| row.get(0))?;
    let newest = newest(connection)?;
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(offset) FROM _honker_stream WHERE topic = ?1")?
        .query_row([TOPIC], |row| row.get(0))?;
    Ok(EventSpan {
        epoch,
        removed: oldest.map_or(newest, |oldest| oldest.cast_unsigned() - 1),
        newest,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let number: i64 = row.get(0)?;
    let text: Text<'_> = serde_json::from_str(row.get_ref(2)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into()))?;
    Ok(Event {
        number: number.cast_unsigned(),
        event: NewEvent {
            at: Timestamp(text.at),
            kind: EventKind::stored(row.get(1)?),
            about: text.about.into_owned(),
            caller: text.caller.into_owned(),
            call_id: text.call_id.map(Cow::into_owned),
            details: text.details.into_owned(),
        },
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
    let too_many: i64 = connection
        .prepare_cached("SELECT max(count(*) - ?2, 0) FROM _honker_stream WHERE topic = ?1")?
        .query_row(
            params![TOPIC, i64::try_from(rows_max).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
    let sql = "SELECT offset, payload ->> '$.at' FROM _honker_stream WHERE topic = ?1 ORDER BY offset LIMIT ?2";
    let mut through: Option<i64> = None;
    let mut statement = connection.prepare_cached(sql)?;
    let mut oldest = statement.query(params![TOPIC, batch])?;
    let mut place = 0;
    while let Some(row) = oldest.next()? {
        let (offset, at): (i64, i64) = (row.get(0)?, row.get(1)?);
        if at >= before.0 && place >= too_many {
            break;
        }
        place += 1;
        through = Some(offset);
    }
    drop(oldest);
    let Some(through) = through else {
        return Ok((0, 0));
    };
    let sql = "DELETE FROM _honker_stream WHERE topic = ?1 AND offset <= ?2";
    let gone = connection
        .prepare_cached(sql)?
        .execute(params![TOPIC, through])?;
    Ok((gone as u64, through.cast_unsigned()))
}
