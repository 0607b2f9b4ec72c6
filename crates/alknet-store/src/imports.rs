//! Catalogues of imports.

use crate::{Store, events, fault::Fault};
use alknet_core::storage::{ImportStore, NewEvent, StoreError};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

impl Store {
    /// Keeps a catalogue like [`ImportStore::put_catalogue`]; if its revision
    /// is another one than before, `event` is committed with it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn put_catalogue_told(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
        event: NewEvent,
    ) -> Result<(), StoreError> {
        self.keep_catalogue(import, revision, text, Some(event))
            .await
    }

    async fn keep_catalogue(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
        event: Option<NewEvent>,
    ) -> Result<(), StoreError> {
        let (import, revision) = (import.to_owned(), revision.to_owned());
        let put = self.write(move |connection| {
            let sql = "SELECT 1 FROM catalogues WHERE import = ?1 AND revision = ?2";
            let is_known = connection.prepare_cached(sql)?.exists([&import, &revision])?;
            let sql = "INSERT INTO catalogues (import, revision, text) VALUES (?1, ?2, ?3)
                ON CONFLICT (import) DO UPDATE SET revision = excluded.revision, text = excluded.text";
            connection.execute(sql, params![import, revision, text])?;
            if let (Some(event), false) = (&event, is_known) {
                events::insert(connection, event)?;
            }
            Ok::<_, Fault>(())
        });
        Ok(put.await?)
    }
}

#[async_trait]
impl ImportStore for Store {
    async fn catalogue(&self, import: &str) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let import = import.to_owned();
        let found = self.read(move |connection| {
            let sql = "SELECT revision, text FROM catalogues WHERE import = ?1";
            let row = connection.query_row(sql, [import], |row| Ok((row.get(0)?, row.get(1)?)));
            Ok::<_, Fault>(row.optional()?)
        });
        Ok(found.await?)
    }

    async fn put_catalogue(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.keep_catalogue(import, revision, text, None).await
    }

    async fn remove_catalogue(&self, import: &str) -> Result<(), StoreError> {
        let import = import.to_owned();
        let removed = self.write(move |connection| {
            connection.execute("DELETE FROM catalogues WHERE import = ?1", [import])?;
            Ok::<_, Fault>(())
        });
        Ok(removed.await?)
    }
}
