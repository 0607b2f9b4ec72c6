//! The log of events in memory.

use super::{
    EVENTS_PAGE_MAX, Event, EventLog, EventPage, EventSpan, MemoryAuditLog, NewEvent, StoreError,
    Timestamp, memory::lock,
};
use crate::audit::AuditRow;
use async_trait::async_trait;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

/// Events in memory; each log has an epoch of its own.
#[derive(Debug)]
pub struct MemoryEventLog {
    epoch: String,
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
    audit: Arc<MemoryAuditLog>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    newest: u64,
}

impl Default for MemoryEventLog {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl MemoryEventLog {
    /// An empty log; rows that come with events go to `audit`.
    #[must_use]
    pub fn new(audit: Arc<MemoryAuditLog>) -> Self {
        Self {
            epoch: uuid::Uuid::now_v7().simple().to_string(),
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            audit,
        }
    }

    pub(super) fn push(&self, events: Vec<NewEvent>) {
        let mut kept = lock(&self.kept);
        for event in events {
            kept.newest += 1;
            let number = kept.newest;
            kept.events.push_back(Event { number, event });
        }
        let newest = kept.newest;
        self.newest
            .send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }
}

impl Kept {
    fn removed(&self) -> u64 {
        self.events
            .front()
            .map_or(self.newest, |first| first.number - 1)
    }
}

#[async_trait]
impl EventLog for MemoryEventLog {
    async fn append_events(
        &self,
        events: Vec<NewEvent>,
        rows: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        rows.into_iter().for_each(|row| self.audit.push(row));
        self.push(events);
        Ok(())
    }

    async fn read_events(
        &self,
        after: u64,
        kind: &str,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let kept = lock(&self.kept);
        let limit = limit.min(EVENTS_PAGE_MAX) as usize;
        let matching = kept
            .events
            .iter()
            .filter(|event| event.number > after && event.event.kind.as_str().starts_with(kind));
        let events: Vec<Event> = matching.take(limit).cloned().collect();
        let through = match events.last() {
            Some(last) if events.len() == limit => last.number,
            _ if limit == 0 => after,
            _ => kept.newest.max(after),
        };
        let span = EventSpan {
            epoch: self.epoch.clone(),
            removed: kept.removed(),
            newest: kept.newest,
        };
        Ok(EventPage {
            span,
            events,
            through,
        })
    }

    async fn prune_events(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError> {
        let mut kept = lock(&self.kept);
        let mut gone = 0;
        while gone < u64::from(batch)
            && let Some(oldest) = kept.events.front()
            && (oldest.event.at < before || kept.events.len() as u64 > rows_max)
        {
            kept.events.pop_front();
            gone += 1;
        }
        if gone > 0 {
            self.audit.push(row.with_removed(gone, kept.removed()));
        }
        Ok(gone)
    }

    fn newest_event(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
