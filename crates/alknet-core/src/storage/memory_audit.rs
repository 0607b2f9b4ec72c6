//! The audit log in memory, and what its filters mean.

use super::{AuditFilter, AuditLog, AuditSpan, StoreError, Timestamp, memory::lock};
use crate::audit::AuditRow;
use async_trait::async_trait;
use std::{collections::VecDeque, sync::Mutex};
use tokio::sync::watch;

/// Audit rows in memory.
#[derive(Debug)]
pub struct MemoryAuditLog {
    kept: Mutex<Kept>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    rows: VecDeque<AuditRow>,
    removed: u64,
}

impl Default for MemoryAuditLog {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            written: watch::Sender::new(0),
        }
    }
}

impl Kept {
    fn newest(&self) -> u64 {
        self.removed + self.rows.len() as u64
    }
}

impl MemoryAuditLog {
    pub(super) fn push(&self, row: AuditRow) {
        self.extend(vec![row]);
    }

    fn extend(&self, rows: Vec<AuditRow>) {
        let mut kept = lock(&self.kept);
        kept.rows.extend(rows);
        let newest = kept.newest();
        self.written
            .send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }
}

/// Whether `text` is `want`, or begins with what precedes a `*` at its end.
fn fits(want: &str, text: &str) -> bool {
    match want.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => want == text,
    }
}

impl AuditFilter {
    /// Rows asked for: 100 if not said, at most 1,000.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(100).min(1_000) as usize
    }

    /// Whether a row with this number is wanted.
    #[must_use]
    pub fn matches(&self, number: u64, row: &AuditRow) -> bool {
        self.matches_texts(row)
            && self.matches_window(number, row)
            && self
                .took_ms_min
                .is_none_or(|least| row.duration_us >= least.saturating_mul(1_000))
    }

    fn matches_texts(&self, row: &AuditRow) -> bool {
        let is = |want: &Option<String>, text: &str| want.as_ref().is_none_or(|want| want == text);
        let is_some = |want: &Option<String>, text: &Option<String>| {
            want.as_ref().is_none_or(|want| Some(want) == text.as_ref())
        };
        let begins = |want: &Option<String>, text: Option<&String>| {
            want.as_ref()
                .is_none_or(|want| text.is_some_and(|text| fits(want, text)))
        };
        let on_route = |want: &String| {
            let steps = row.route.as_deref().unwrap_or_default();
            !want.is_empty() && steps.split('/').any(|step| step == want)
        };
        let ended = |want: &String| match want.as_str() {
            "refused" => row.outcome.as_str() != "ok",
            want => want == row.outcome.as_str(),
        };
        is(&self.caller, &row.caller)
            && is(&self.surface, row.surface.as_str())
            && begins(&self.operation, Some(&row.operation))
            && begins(&self.originator, row.originator.as_ref())
            && begins(&self.resource, row.resource.as_ref())
            && is_some(&self.key, &row.key)
            && is_some(&self.transport, &row.transport)
            && self.route.as_ref().is_none_or(on_route)
            && self.outcome.as_ref().is_none_or(ended)
            && self
                .call_id
                .as_ref()
                .is_none_or(|want| *want == row.call_id || Some(want) == row.parent_id.as_ref())
    }

    fn matches_window(&self, number: u64, row: &AuditRow) -> bool {
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        time(&self.since).is_none_or(|since| row.at >= since)
            && time(&self.until).is_none_or(|until| row.at < until)
            && self.after.is_none_or(|after| number > after)
            && self.before.is_none_or(|before| number < before)
    }
}

#[async_trait]
impl AuditLog for MemoryAuditLog {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        self.extend(rows);
        Ok(())
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        let kept = lock(&self.kept);
        let numbered = (kept.removed + 1..).zip(&kept.rows);
        let matching = numbered.filter(|(number, row)| filter.matches(*number, row));
        let mut found: Vec<(u64, AuditRow)> = matching.map(|(n, row)| (n, row.clone())).collect();
        if !filter.oldest_first {
            found.reverse();
        }
        found.truncate(filter.limit());
        Ok(found)
    }

    async fn span(&self) -> Result<AuditSpan, StoreError> {
        let kept = lock(&self.kept);
        Ok(AuditSpan {
            removed: kept.removed,
            newest: kept.newest(),
        })
    }

    fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    async fn prune_rows(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError> {
        let (gone, through) = {
            let mut kept = lock(&self.kept);
            let first = kept.removed;
            // Room for the row that tells of it.
            let rows_max = match kept.rows.len() as u64 > rows_max {
                true => rows_max.saturating_sub(1),
                false => rows_max,
            };
            while kept.removed - first < u64::from(batch)
                && let Some(oldest) = kept.rows.front()
                && (oldest.at < before || kept.rows.len() as u64 > rows_max)
            {
                kept.rows.pop_front();
                kept.removed += 1;
            }
            (kept.removed - first, kept.removed)
        };
        if gone > 0 {
            self.push(row.with_removed(gone, through));
        }
        Ok(gone)
    }
}
