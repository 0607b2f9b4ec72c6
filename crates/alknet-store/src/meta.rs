//! Whether the last run ended in order.

use crate::{Store, audit, events, fault::Fault};
use alknet_core::{
    AuditRow,
    storage::{NewEvent, StoreError},
};
use rusqlite::{Connection, OptionalExtension};

const RUNNING: &str = "running";

/// Whether the store was marked as running when it was last closed or lost.
pub(crate) fn is_running(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let value: Option<String> = connection
        .query_row(sql, [RUNNING], |row| row.get(0))
        .optional()?;
    Ok(value.as_deref() == Some("1"))
}

impl Store {
    /// Whether the run before this one called [`Store::mark_running`] and
    /// never [`Store::mark_clean`]: it crashed, and what it had not yet
    /// handed to the store (audit rows that waited for their batch) is lost.
    #[must_use]
    pub fn unclean_start(&self) -> bool {
        self.found_running()
    }

    /// Notes durably that a node is working with this store.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn mark_running(&self) -> Result<(), StoreError> {
        self.begin_run(Vec::new(), Vec::new()).await
    }

    /// [`Store::mark_running`], in one transaction with what there is to say
    /// of it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn begin_run(
        &self,
        events: Vec<NewEvent>,
        rows: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        self.mark("1", events, rows).await
    }

    /// Notes durably that everything was handed over; the last act of a node
    /// before [`Store::close`].
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn mark_clean(&self) -> Result<(), StoreError> {
        self.end_run(Vec::new()).await
    }

    /// [`Store::mark_clean`], in one transaction with the events that tell of
    /// it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn end_run(&self, events: Vec<NewEvent>) -> Result<(), StoreError> {
        self.mark("0", events, Vec::new()).await
    }

    async fn mark(
        &self,
        value: &'static str,
        told: Vec<NewEvent>,
        rows: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        let marked = self.write(move |connection| {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            connection.execute(sql, [RUNNING, value])?;
            rows.iter()
                .try_for_each(|row| audit::insert(connection, row))?;
            told.iter()
                .try_for_each(|event| events::insert(connection, event))?;
            Ok::<_, Fault>(())
        });
        Ok(marked.await?)
    }
}
