//! Catalogues of imports.

use crate::{Store, fault::Fault};
use alknet_core::storage::{ImportStore, StoreError};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

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
        let (import, revision) = (import.to_owned(), revision.to_owned());
        let put = self.write(move |connection| {
            let sql = "INSERT INTO catalogues (import, revision, text) VALUES (?1, ?2, ?3)
                ON CONFLICT (import) DO UPDATE SET revision = excluded.revision, text = excluded.text";
            connection.execute(sql, params![import, revision, text])?;
            Ok::<_, Fault>(())
        });
        Ok(put.await?)
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
