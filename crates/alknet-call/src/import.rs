//! `from_call`: a peer's operations as an overlay of this node, kept up to
//! date through its `services/watch`, forwarded over its link.

use crate::{
    links::{Link, Links, WeakLinks},
    request::Request,
    session::Session,
};
use alknet_core::{
    Access, ByteReceiver, ByteSender, CallError, CatalogueEntry, Change, ChannelEnd,
    ChannelOpening, Context, ErrorCode, Forwarder, Handler, IMPORT_OPERATIONS_MAX,
    IMPORT_SCHEMA_BYTES_MAX, ImportError, Input, Kind, OperationAdapter, OperationName, Output,
    PeerId, Registration, clean_foreign_text,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::json;
use std::{future::ready, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Time for one page of a peer's catalogue.
const PAGE_BUDGET: Duration = Duration::from_secs(20);
/// Operations asked for at a time.
const PAGE_OPERATIONS: u32 = 500;
/// Characters of a peer's summary and description that are kept.
const SUMMARY_CHARS_MAX: usize = 300;
const DESCRIPTION_CHARS_MAX: usize = 16_384;
/// First and longest delay before a failed import is tried again on a live
/// link.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often a catalogue is read again that changed while it was read.
const FETCHES_MAX: usize = 4;
/// Bytes of a revision: each one is stored and told as an event.
const REVISION_BYTES_MAX: usize = 64;
/// Revisions of a peer that are taken over at once, and how long each of them
/// takes to be had again. Each is fetched, stored and told as an event, which
/// may not push what others did out of the log.
const REVISIONS_AT_ONCE: u32 = 64;
const REVISION_AGAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Page {
    operations: Vec<serde_json::Value>,
    #[serde(default)]
    next_cursor: Option<String>,
    revision: String,
}

#[derive(Deserialize)]
struct WatchItem {
    revision: String,
}

/// Holds a peer's overlay for as long as it has a session; runs until the link
/// is forgotten.
pub(crate) async fn import_catalogues(links: &Links, link: &Arc<Link>) {
    let mut changes = link.sessions_changed.subscribe();
    let mut retry = RETRY_MIN;
    // Kept from one session to the next: connecting again is no way around it.
    let mut pace = Pace::default();
    loop {
        changes.mark_unchanged();
        let Some(session) = link.session() else {
            // Removing an overlay cannot fail.
            let _ = links
                .door()
                .registry()
                .apply(Change::RemovePeer(link.peer.clone()));
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let followed = tokio::select! {
            followed = follow(links, link, &session, &mut retry, &mut pace) => followed,
            _ = session.closed() => continue,
            // The old connection of a peer that was started again may take
            // long to end, and tells nothing new until then.
            () = another_session(link, &session, &mut changes) => continue,
        };
        match followed {
            Err(cause) if !session.is_closed() => {
                // The peer's own words may be in it.
                let cause = clean_foreign_text(&cause, SUMMARY_CHARS_MAX).replace('\n', " ");
                tracing::warn!(peer = %link.peer, cause, "the peer's operations cannot be imported");
            }
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
            _ = changes.changed() => retry = RETRY_MIN,
        }
    }
}

/// Resolves when another session than `session` serves calls.
async fn another_session(link: &Link, session: &Arc<Session>, changes: &mut watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        if link
            .session()
            .is_some_and(|newest| !Arc::ptr_eq(&newest, session))
        {
            return;
        }
    }
    std::future::pending().await
}

/// How fast the revisions of one peer are taken over: as the generic cell rate
/// algorithm has it (ITU-T I.371).
#[derive(Default)]
struct Pace {
    last: Option<String>,
    /// When all of them could be taken over at once again.
    rested: Option<Instant>,
}

impl Pace {
    /// Waits until this revision may be taken over.
    async fn take(&mut self, revision: &str) {
        // As when a peer comes back: nothing is fetched, and nothing told.
        if self.last.as_deref() == Some(revision) {
            return;
        }
        let now = Instant::now();
        let rested = self.rested.map_or(now, |rested| rested.max(now));
        let slack = REVISION_AGAIN * (REVISIONS_AT_ONCE - 1);
        if let Some(turn) = rested.checked_sub(slack) {
            tokio::time::sleep_until(turn).await;
        }
        self.rested = Some(rested + REVISION_AGAIN);
        self.last = Some(revision.to_owned());
    }
}

/// A revision names a catalogue, and nothing else.
fn check_revision(revision: &str) -> Result<(), ImportError> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !revision.is_empty() && revision.len() <= REVISION_BYTES_MAX && revision.chars().all(is_word)
    {
        return Ok(());
    }
    let reason = format!("a revision has 1 to {REVISION_BYTES_MAX} letters, digits and `-_.:`");
    Err(ImportError::Malformed { reason })
}

/// Takes the revisions of the catalogue over, until the subscription ends; of
/// those that come faster than the [`Pace`], the newest.
async fn follow(
    links: &Links,
    link: &Link,
    session: &Arc<Session>,
    retry: &mut Duration,
    pace: &mut Pace,
) -> Result<(), String> {
    let watch = OperationName::parse("services/watch").map_err(|e| e.to_string())?;
    let mut items = session
        .subscribe(Request::new(watch, Bytes::from_static(b"{}")))
        .await
        .map_err(|e| e.to_string())?
        .fuse();
    let mut imported: Option<String> = None;
    while let Some(item) = items.next().await {
        let mut item: WatchItem = item.and_then(Output::parse).map_err(|e| e.to_string())?;
        if imported.as_ref() == Some(&item.revision) {
            continue;
        }
        check_revision(&item.revision).map_err(|e| e.to_string())?;
        pace.take(&item.revision).await;
        // What came meanwhile is newer.
        while let Some(Some(newer)) = items.next().now_or_never() {
            item = newer.and_then(Output::parse).map_err(|e| e.to_string())?;
            check_revision(&item.revision).map_err(|e| e.to_string())?;
        }
        let adapter = FromCall {
            links: links.clone(),
            peer: link.peer.clone(),
            session: session.clone(),
            revision: item.revision.clone(),
        };
        let registrations = adapter.import().await.map_err(|e| e.to_string())?;
        let count = registrations.len();
        let applied = links
            .door()
            .registry()
            .apply(Change::SetPeer(link.peer.clone(), registrations));
        applied.map_err(|errors| errors.to_string())?;
        imported = Some(item.revision);
        *retry = RETRY_MIN;
        if link.gone.is_cancelled() {
            // Forgotten while this was applied: what is gone stays gone.
            let gone = Change::RemovePeer(link.peer.clone());
            return links
                .door()
                .registry()
                .apply(gone)
                .map_err(|errors| errors.to_string());
        }
        tracing::debug!(peer = %link.peer, operations = count, "imported");
    }
    Ok(())
}

/// Imports what this node may call at a peer.
struct FromCall {
    links: Links,
    peer: PeerId,
    session: Arc<Session>,
    revision: String,
}

#[async_trait]
impl OperationAdapter for FromCall {
    async fn import(&self) -> Result<Vec<Registration>, ImportError> {
        let entries = match self.kept().await {
            Some(entries) => entries,
            None => self.fetch().await?,
        };
        self.registrations(entries)
    }
}

impl FromCall {
    /// The catalogue of this revision, if it was fetched before.
    async fn kept(&self) -> Option<Vec<serde_json::Value>> {
        let kept = self.links.imports().catalogue(self.peer.as_str()).await;
        let (revision, text) = kept.ok().flatten()?;
        (revision == self.revision)
            .then(|| serde_json::from_slice(&text).ok())
            .flatten()
    }

    async fn fetch(&self) -> Result<Vec<serde_json::Value>, ImportError> {
        for _ in 0..FETCHES_MAX {
            if let Some(entries) = self.fetch_once().await? {
                return Ok(entries);
            }
        }
        Err(ImportError::Malformed {
            reason: "the catalogue changes faster than it can be read".into(),
        })
    }

    /// All pages of one revision; nothing if it changed in between.
    async fn fetch_once(&self) -> Result<Option<Vec<serde_json::Value>>, ImportError> {
        let mut entries = Vec::new();
        let (mut cursor, mut bytes, mut revision) = (None::<String>, 0, None);
        loop {
            let input = json!({ "schemas": true, "limit": PAGE_OPERATIONS, "cursor": cursor });
            let (page, size) = self.page(&input).await?;
            bytes += size;
            let is_empty = page.operations.is_empty();
            entries.extend(page.operations);
            too_much("bytes of schema text", bytes, IMPORT_SCHEMA_BYTES_MAX)?;
            too_much("operations", entries.len(), IMPORT_OPERATIONS_MAX)?;
            // Pages of two revisions do not make a catalogue.
            if *revision.get_or_insert_with(|| page.revision.clone()) != page.revision {
                return Ok(None);
            }
            match page.next_cursor {
                Some(next) if !is_empty && Some(&next) != cursor.as_ref() => cursor = Some(next),
                _ => break,
            }
        }
        if revision.as_ref() == Some(&self.revision) {
            self.keep(&entries).await;
        }
        Ok(Some(entries))
    }

    async fn page(&self, input: &serde_json::Value) -> Result<(Page, usize), ImportError> {
        let list = OperationName::parse("services/list").map_err(|e| ImportError::Malformed {
            reason: e.to_string(),
        })?;
        let mut request = Request::new(list, Bytes::from(input.to_string()));
        request.budget = Some(PAGE_BUDGET);
        let output = self
            .session
            .call(request)
            .await
            .map_err(ImportError::Unreachable)?
            .into_bytes();
        let size = output.len();
        let page = Output::Json(output)
            .parse()
            .map_err(|error| ImportError::Malformed {
                reason: error.message,
            })?;
        Ok((page, size))
    }

    async fn keep(&self, entries: &[serde_json::Value]) {
        let text = serde_json::to_vec(entries).unwrap_or_default();
        // A cache: without it the next start fetches again.
        if let Err(cause) = self
            .links
            .imports()
            .put_catalogue(self.peer.as_str(), &self.revision, text)
            .await
        {
            tracing::warn!(peer = %self.peer, %cause, "the catalogue was not kept");
        }
    }

    /// What a peer says of its operations is input: what is not well-formed is
    /// left out, one operation at a time.
    fn registrations(
        &self,
        entries: Vec<serde_json::Value>,
    ) -> Result<Vec<Registration>, ImportError> {
        let mut seen = std::collections::HashSet::new();
        let mut registrations = Vec::new();
        for entry in entries {
            let mut entry: CatalogueEntry = match serde_json::from_value(entry) {
                Ok(entry) => entry,
                Err(cause) => {
                    tracing::debug!(peer = %self.peer, %cause, "an operation of the peer is malformed and left out");
                    continue;
                }
            };
            if !seen.insert(entry.name.clone()) {
                return Err(ImportError::Duplicate {
                    name: entry.name.to_string(),
                });
            }
            entry.summary =
                clean_foreign_text(&entry.summary, SUMMARY_CHARS_MAX).replace('\n', " ");
            if entry.summary.trim().is_empty() {
                entry.summary = format!("An operation of `{}`.", self.peer);
            }
            entry.description = entry
                .description
                .map(|text| clean_foreign_text(&text, DESCRIPTION_CHARS_MAX));
            entry.deprecated = entry
                .deprecated
                .map(|text| clean_foreign_text(&text, SUMMARY_CHARS_MAX));
            for error in &mut entry.errors {
                error.description = clean_foreign_text(&error.description, SUMMARY_CHARS_MAX);
            }
            let handler = forward(&self.links, &self.peer, &entry.name, entry.kind);
            // The grant `peer:<id>=<operation>` is what the gate asks for; any
            // known caller that holds it may go on to the peer, which decides.
            let spec = entry.into_spec(Access::Authenticated);
            registrations.push(Registration::imported(spec, handler, None));
        }
        Ok(registrations)
    }
}

fn too_much(what: &'static str, found: usize, max: usize) -> Result<(), ImportError> {
    if found > max {
        Err(ImportError::TooMuch { what, found, max })
    } else {
        Ok(())
    }
}

/// The door holds it, and the links hold the door.
pub(crate) struct WeakForwarder(pub(crate) WeakLinks);

impl Forwarder for WeakForwarder {
    fn handler(&self, peer: &PeerId, operation: &OperationName, kind: Kind) -> Handler {
        let Some(links) = self.0.upgrade() else {
            return refuse(kind);
        };
        forward(&links, peer, operation, kind)
    }
}

/// Answers calls that come after the links are gone.
fn refuse(kind: Kind) -> Handler {
    let gone = || CallError::new(ErrorCode::Unavailable, "the node is shutting down");
    match kind {
        Kind::Query | Kind::Mutation => {
            Handler::Unary(Arc::new(move |_, _| Box::pin(ready(Err(gone())))))
        }
        Kind::Subscription => Handler::Stream(Arc::new(move |_, _| Box::pin(ready(Err(gone()))))),
        Kind::Channel => Handler::Channel(Arc::new(move |_, _, _| Box::pin(ready(Err(gone()))))),
    }
}

/// A handler that passes calls on to the peer, unparsed.
fn forward(links: &Links, peer: &PeerId, name: &OperationName, kind: Kind) -> Handler {
    let (links, peer, name) = (links.clone(), peer.clone(), name.clone());
    match kind {
        Kind::Query | Kind::Mutation => Handler::Unary(Arc::new(move |cx, input| {
            let (links, peer, request) = (
                links.clone(),
                peer.clone(),
                request(&links, &name, &cx, input),
            );
            Box::pin(async move {
                let answered = links.session(&peer)?.call(request).await;
                answered.map_err(|error| lost_at(&peer, error))
            })
        })),
        Kind::Subscription => Handler::Stream(Arc::new(move |cx, input| {
            let (links, peer, request) = (
                links.clone(),
                peer.clone(),
                request(&links, &name, &cx, input),
            );
            Box::pin(async move {
                let items = links.session(&peer)?.subscribe(request).await;
                let items = items.map_err(|error| lost_at(&peer, error))?;
                Ok(items.map_err(move |error| lost_at(&peer, error)).boxed())
            })
        })),
        Kind::Channel => Handler::Channel(Arc::new(move |cx, input, opening| {
            let (links, peer, request) = (
                links.clone(),
                peer.clone(),
                request(&links, &name, &cx, input),
            );
            Box::pin(async move {
                let session = links.channel_session(&peer).await?;
                let ended = splice(session, request, opening).await;
                ended.map_err(|error| lost_at(&peer, error))
            })
        })),
    }
}

/// Says which peer was lost, unless that is said already: by the node that
/// lost it, if the call went further than one peer.
fn lost_at(peer: &PeerId, error: CallError) -> CallError {
    let is_lost = error.is(ErrorCode::Lost) || error.is(ErrorCode::Unavailable);
    if !is_lost || error.details.is_some() {
        return error;
    }
    let message = format!("peer `{peer}`: {}", error.message);
    CallError { message, ..error }.with_details(json!({ "peer": peer }))
}

/// The next node's view of the call: its budget, the peers that it has yet to
/// pass, who is said to have started it, and the nodes it has passed.
fn request(links: &Links, name: &OperationName, cx: &Context, input: Input) -> Request {
    let door = links.door();
    let mut via = cx.via().to_vec();
    via.extend(door.node_id().copied());
    let mut request = Request::new(name.clone(), input.into_bytes());
    // The same id in the logs of every node on the way.
    request.call_id = cx.call_id();
    request.budget = cx.remaining();
    request.route = cx.route().iter().skip(1).cloned().collect();
    request.via = via;
    request.originator = door.originator_beyond(cx.principal(), cx.originator());
    request.idempotency_key = cx.idempotency_key().map(str::to_owned);
    request.trace = cx.trace().cloned();
    request.interaction = cx.interaction().clone();
    request
}

/// Joins a channel here with one at the peer; bytes are passed on as they
/// come, held back by whoever is slower.
async fn splice(
    session: Arc<Session>,
    request: Request,
    opening: ChannelOpening,
) -> Result<Output, CallError> {
    let far = session.open(request).await?;
    let near = opening.accept_output(far.reply)?;
    let ChannelEnd {
        tx: near_tx,
        rx: near_rx,
        control_tx: near_control,
        control_rx: mut from_near,
    } = near;
    let ChannelEnd {
        tx: far_tx,
        rx: far_rx,
        control_tx: far_control,
        control_rx: mut from_far,
    } = far.channel;
    let outward = async {
        tokio::join!(copy_bytes(near_rx, far_tx), async {
            while let Some(control) = from_near.recv().await {
                if far_control.send(control).await.is_err() {
                    break;
                }
            }
            // Dropping it would say that no more control messages follow,
            // which the far side need not know.
            std::future::pending::<()>().await
        })
    };
    let inward = async {
        let controls = async {
            while let Some(control) = from_far.recv().await {
                if near_control.send(control).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(copy_bytes(far_rx, near_tx), controls)
    };
    tokio::pin!(outward, inward);
    let mut done = far.done;
    let (mut result, mut read) = (None, false);
    loop {
        tokio::select! {
            ended = &mut done, if result.is_none() => result = Some(ended),
            _ = &mut inward, if !read => read = true,
            _ = &mut outward, if result.is_none() => {}
        }
        // The last bytes go before the result.
        if read && let Some(result) = result.take() {
            return result;
        }
        if result.as_ref().is_some_and(Result::is_err) {
            return result
                .unwrap_or_else(|| Err(CallError::new(ErrorCode::Lost, "the channel ended")));
        }
    }
}

/// Passes bytes on until they end, are cut, or nobody takes them any more; a
/// side that is dropped hears of that at once. What came to its end is kept:
/// dropping it would say more.
async fn copy_bytes(
    mut from: ByteReceiver,
    mut to: ByteSender,
) -> Option<(ByteReceiver, ByteSender)> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = from.recv() => chunk.ok()?,
            () = to.closed() => return None,
        };
        let Some(chunk) = chunk else {
            to.end();
            return Some((from, to));
        };
        to.send_chunk(chunk).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_revision_is_a_short_word() {
        let longest = "r".repeat(REVISION_BYTES_MAX);
        for fine in ["1", "9f3c-7", "b3:00_1.2", &longest] {
            check_revision(fine).unwrap();
        }
        for bad in ["", "a b", "a\nb", "ä", &format!("{longest}r")] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_flips_its_revision_is_slowed_and_one_that_rests_is_not() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        let at_once = async |pace: &mut Pace| {
            let begun = Instant::now();
            for n in 0..REVISIONS_AT_ONCE {
                pace.take(&format!("{n}")).await;
                // As after a reconnection: the same one costs nothing.
                pace.take(&format!("{n}")).await;
            }
            begun.elapsed()
        };
        assert_eq!(at_once(&mut pace).await, Duration::ZERO);
        for n in 0..100 {
            pace.take(if n % 2 == 0 { "b" } else { "a" }).await;
        }
        assert_eq!(begun.elapsed(), REVISION_AGAIN * 100);
        tokio::time::sleep(REVISION_AGAIN * REVISIONS_AT_ONCE).await;
        assert_eq!(at_once(&mut pace).await, Duration::ZERO);
    }
}
