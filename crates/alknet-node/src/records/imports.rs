//! Catalogues of peers, with an event for each that is another one.

use alknet_core::storage::{EventKind, ImportStore, NewEvent, SharedClock, StoreError};
use alknet_store::Store;
use async_trait::async_trait;

/// The store's catalogues; one that changes is committed with its event.
pub(crate) struct RecordedImports {
    store: Store,
    clock: SharedClock,
}

impl RecordedImports {
    pub(crate) fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock }
    }
}

#[async_trait]
impl ImportStore for RecordedImports {
    async fn catalogue(&self, import: &str) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        self.store.catalogue(import).await
    }

    async fn put_catalogue(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
    ) -> Result<(), StoreError> {
        let event = NewEvent::noticed(EventKind::IMPORT_CHANGED, import, (self.clock)())
            .with("revision", revision);
        self.store
            .put_catalogue_told(import, revision, text, event)
            .await
    }

    async fn remove_catalogue(&self, import: &str) -> Result<(), StoreError> {
        self.store.remove_catalogue(import).await
    }
}
