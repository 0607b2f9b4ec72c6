//! Who is shut out for a while.

use crate::{Store, audit, events, fault::Fault};
use alknet_core::{
    AuditRow,
    storage::{EventKind, NewEvent, StoreError, Timestamp},
};
use rusqlite::{Connection, Row, params};

/// An address, a node key or a peer that is shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBan {
    /// Whom it is about, as whoever hands it over writes it.
    pub target: String,
    /// Why, for people.
    pub reason: String,
    /// Who shut it out: a peer, or the node itself.
    pub banned_by: String,
    /// Since when.
    pub created_at: Timestamp,
    /// When it ends; `None` for a ban that somebody must lift.
    pub until: Option<Timestamp>,
}

impl Store {
    /// All bans, those that have ended and were not pruned included, by target.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn bans(&self) -> Result<Vec<KeptBan>, StoreError> {
        let read = self.read(|connection| {
            let sql =
                "SELECT target, reason, banned_by, created_at, until FROM bans ORDER BY target";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], ban)?;
            Ok::<_, Fault>(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        Ok(read.await?)
    }

    /// Keeps a ban in the place of one of the same target, together with the
    /// audit row and the event.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written; then nothing has changed.
    pub async fn put_ban(&self, ban: KeptBan, row: AuditRow) -> Result<(), StoreError> {
        self.put_ban_for(ban, None, row).await
    }

    /// The same, in the place of another ban, which is lifted, with an audit row
    /// of its own.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written; then both are as before.
    pub async fn put_ban_for(
        &self,
        ban: KeptBan,
        lifted: Option<(String, AuditRow)>,
        row: AuditRow,
    ) -> Result<(), StoreError> {
        let put = self.write(move |connection| {
            if let Some((lifted, row)) = lifted
                && remove(connection, &lifted)?
            {
                audit::insert(connection, &row)?;
                let event = NewEvent::of(EventKind::BAN_LIFTED, lifted, &row);
                events::insert(connection, &event)?;
            }
            let sql = "INSERT INTO bans (target, reason, banned_by, created_at, until)
                VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (target) DO UPDATE SET
                reason = excluded.reason, banned_by = excluded.banned_by,
                created_at = excluded.created_at, until = excluded.until";
            let values = params![
                ban.target,
                ban.reason,
                ban.banned_by,
                ban.created_at.0,
                ban.until.map(|at| at.0),
            ];
            connection.prepare_cached(sql)?.execute(values)?;
            audit::insert(connection, &row)?;
            let event = NewEvent::of(EventKind::BAN_SET, ban.target, &row);
            let event = event.with("reason", ban.reason);
            let until = ban.until.map(|until| until.to_string());
            events::insert(connection, &event.with("until", until))?;
            Ok::<_, Fault>(())
        });
        Ok(put.await?)
    }

    /// Lifts a ban, together with the audit row and the event; `false`, and nothing is
    /// written, if there is none of this target.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written; then nothing has changed.
    pub async fn remove_ban(&self, target: &str, row: AuditRow) -> Result<bool, StoreError> {
        let target = target.to_owned();
        let removed = self.write(move |connection| {
            if !remove(connection, &target)? {
                return Ok(false);
            }
            audit::insert(connection, &row)?;
            let event = NewEvent::of(EventKind::BAN_LIFTED, target, &row);
            events::insert(connection, &event)?;
            Ok::<_, Fault>(true)
        });
        Ok(removed.await?)
    }

    /// Forgets bans that ended by `now`. They were over by the clock already:
    /// no audit row, no event.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be removed.
    pub async fn prune_bans(&self, now: Timestamp) -> Result<usize, StoreError> {
        let pruned = self.write(move |connection| {
            let sql = "DELETE FROM bans WHERE until <= ?1";
            Ok::<_, Fault>(connection.prepare_cached(sql)?.execute([now.0])?)
        });
        Ok(pruned.await?)
    }
}

fn remove(connection: &Connection, target: &str) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM bans WHERE target = ?1";
    Ok(connection.prepare_cached(sql)?.execute([target])? > 0)
}

fn ban(row: &Row<'_>) -> rusqlite::Result<KeptBan> {
    Ok(KeptBan {
        target: row.get(0)?,
        reason: row.get(1)?,
        banned_by: row.get(2)?,
        created_at: Timestamp(row.get(3)?),
        until: row.get::<_, Option<i64>>(4)?.map(Timestamp),
    })
}
