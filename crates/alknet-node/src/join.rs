//! `alknet/join/1`: redeeming an invite over a connection whose keys are
//! proven. One stream, 4 KiB, ten seconds.

use crate::{
    admission::{Conduct, Offence, QuicHandler, Refusal, Source, Who},
    dialer::{endpoint_addr, vetted},
    find::{Finder, NetworkSecret},
    netcheck::ask_relay,
    relay::{Presented, RelayAddress, Relays, relay_token},
    ticket::{ADDRESSES_MAX, RELAYS_MAX, Ticket, invite_id, secret_hash},
};
use alknet_call::{connection_code, quic::QuicConnection};
use alknet_core::{
    AuditOutcome, AuditRow, CallError, Caller, ErrorCode, Grants, PeerId, Surface,
    clean_foreign_text,
    storage::{
        IdentityChange, IdentityIndex, InviteRecord, NodeKey, PeerAddresses, PeerRecord,
        StoreError, Timestamp, hex32,
    },
    transport::Connection,
};
use async_trait::async_trait;
use iroh::{
    Endpoint, RelayUrl, Watcher,
    endpoint::{ConnectionError, RelayStatus},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// The protocol's name on the wire.
pub(crate) const ALPN: &[u8] = b"alknet/join/1";
/// Most bytes of a request or a reply.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 4096;
/// Time for the whole exchange.
pub(crate) const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// Longest delay of an address that keeps failing: whoever redeems a ticket
/// waits no longer for the answer.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(8);
/// Bytes of the list of grants in a message; what does not fit is counted.
const GIVES_BYTES_MAX: usize = 1536;
/// Bytes of a relay's URL in a message.
const RELAY_BYTES_MAX: usize = 256;
/// Characters of a foreign text that are shown.
const TEXT_CHARS_MAX: usize = 512;
/// How long the reason is waited for why a stream ended.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How long a node that joins waits for its own place at a relay. Where UDP is
/// blocked, it looks around for some seconds before it even asks for one.
const HOME_MAX: Duration = Duration::from_secs(8);
/// The same if the relay could not be reached at first.
const HOME_FAILING_MAX: Duration = Duration::from_secs(3);
/// How long a relay is asked why it did not help.
const REFUSAL_MAX: Duration = Duration::from_secs(4);
/// How long a token is shown: at least, and at most until a relay was tried.
const SHOWN_MIN: Duration = Duration::from_millis(500);
const SHOWN_MAX: Duration = Duration::from_secs(3);

/// What a newcomer sends (JSON, one line of fields; unknown ones are ignored).
#[derive(Serialize, Deserialize)]
struct Request {
    /// The ticket's secret, in hexadecimal.
    secret: String,
    /// How the newcomer calls itself.
    name: String,
    /// Where it can be reached.
    #[serde(default)]
    addresses: PeerAddresses,
    /// What it gives in return, as told to people.
    #[serde(default)]
    gives: Vec<String>,
}

/// What the inviting node answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Joined(Joined),
    Refused(CallError),
}

/// The newcomer is a peer now.
#[derive(Serialize, Deserialize)]
pub(crate) struct Joined {
    /// How the inviting node calls itself.
    pub(crate) name: String,
    /// How it calls the newcomer.
    pub(crate) you_are: PeerId,
    /// What it gives.
    pub(crate) gives: Vec<String>,
    /// When that ends.
    #[serde(default)]
    pub(crate) expires_at: Option<Timestamp>,
    /// Where it can be reached.
    #[serde(default)]
    pub(crate) addresses: PeerAddresses,
    /// The secret of its network, in hexadecimal. The first release neither
    /// sends nor reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

impl Joined {
    /// The secret of the network of the inviting node, if it told one.
    pub(crate) fn network(&self) -> Option<NetworkSecret> {
        let bytes = hex32::decode(self.network.as_ref()?)?;
        Some(NetworkSecret::from_bytes(bytes))
    }
}

/// The inviting side.
pub(crate) struct JoinHandler {
    pub(crate) relays: Relays,
    pub(crate) identities: Arc<IdentityIndex>,
    pub(crate) node_name: String,
    pub(crate) own_addresses: Box<dyn Fn() -> PeerAddresses + Send + Sync>,
    pub(crate) joined: Box<dyn Fn(&PeerId) + Send + Sync>,
    pub(crate) finder: Arc<Finder>,
    pub(crate) audit: alknet_core::AuditSink,
    pub(crate) conduct: Arc<Conduct>,
    pub(crate) waiting: Waiting,
}

/// Those who failed too often, and wait for an answer: each may wait once, so
/// that guessing at the same time is no faster.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<HashSet<Source>>);

/// One who waits, until this is dropped.
struct Turn<'a> {
    waiting: &'a Waiting,
    source: Source,
}

impl Waiting {
    fn begin(&self, source: Source) -> Option<Turn<'_>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not made unless it is its turn: it would be over with it.
        waiting.insert(source).then(|| Turn {
            waiting: self,
            source,
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let waiting = &self.waiting.0;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&self.source);
    }
}

pub(crate) fn is_open(invite: &InviteRecord, now: Timestamp) -> bool {
    !invite.revoked && invite.used_by.is_none() && invite.expires_at > now
}

#[async_trait]
impl QuicHandler for JoinHandler {
    fn admits_strangers(&self) -> bool {
        // Used and revoked ones count until they expire, so that whoever comes
        // with such a ticket is told which it is.
        self.identities
            .snapshot()
            .invites
            .iter()
            .any(|invite| invite.expires_at > self.identities.now())
    }

    async fn serve(&self, connection: QuicConnection, _caller: Caller) {
        match timeout(EXCHANGE_MAX + DELAY_MAX, self.exchange(&connection)).await {
            Ok(Ok(())) => {
                // The newcomer closes once it has read the answer.
                let _ = timeout(Duration::from_secs(5), connection.closed()).await;
                connection.close(connection_code::DONE, "done");
            }
            Ok(Err(cause)) => {
                tracing::debug!(%cause, "a join ended early");
                connection.close(connection_code::NOT_ADMITTED, "not a join request");
            }
            Err(_) => connection.close(connection_code::NOT_ADMITTED, "too slow"),
        }
    }
}

impl JoinHandler {
    async fn exchange(&self, connection: &QuicConnection) -> std::io::Result<()> {
        let who = Who::of(connection.info());
        let asked = async {
            let accepted = connection.accept_bi().await;
            let mut stream = accepted.map_err(std::io::Error::other)?;
            let request: Request = read_message(&mut stream.recv).await?;
            Ok::<_, std::io::Error>((stream, request))
        };
        let (mut stream, request) = timeout(EXCHANGE_MAX, asked).await??;
        let answer = match self.answer(&who, connection, request).await {
            Ok(joined) => Answer::Joined(joined),
            Err(error) => {
                self.conduct.refusals.note(Refusal::Join);
                tracing::debug!(address = ?who.address, code = %error.code, "a join was refused");
                Answer::Refused(error)
            }
        };
        stream.send.write_all(&serde_json::to_vec(&answer)?).await?;
        stream.send.finish();
        Ok(())
    }

    /// Judges a request, later if requests of the same source failed lately.
    async fn answer(
        &self,
        who: &Who,
        connection: &QuicConnection,
        request: Request,
    ) -> Result<Joined, CallError> {
        let delay = self.conduct.delay(who);
        if let Some(source) = who.source().filter(|_| !delay.is_zero()) {
            let turn = self.waiting.begin(source);
            let _turn = turn.ok_or_else(|| too_many_failures(delay))?;
            tokio::time::sleep(delay).await;
        }
        let redeemed = self.redeem(connection, request).await;
        if let Err(error) = &redeemed {
            self.conduct.offended(who, Offence::WrongTicket);
            self.refused(connection, &error.code).await;
        }
        redeemed
    }

    async fn redeem(
        &self,
        connection: &QuicConnection,
        request: Request,
    ) -> Result<Joined, CallError> {
        let key = *connection.inner().remote_id().as_bytes();
        let hash = request_hash(&request.secret)?;
        let now = self.identities.now();
        let snapshot = self.identities.snapshot();
        // Every invite is compared, in constant time each: neither the time
        // nor the order tells how near a guess was.
        let mut found: Option<&InviteRecord> = None;
        for invite in &snapshot.invites {
            if bool::from(invite.secret_hash.ct_eq(&hash)) {
                found = Some(invite);
            }
        }
        let Some(invite) = found else {
            return Err(CallError::domain(
                "TICKET_WRONG",
                "this ticket is not of this node, or its invite is long gone",
            ));
        };
        let peer = match &invite.used_by {
            None => self.newcomer_name(invite, &request.name)?,
            // It never heard the answer, and asks again. A peer that was
            // removed since needs a new ticket.
            Some(peer) if invite.used_key == Some(key) && self.holds(peer, &key) => peer.clone(),
            Some(_) => return Err(redeem_error(StoreError::InviteUsed)),
        };
        let mut record = PeerRecord::new(peer.clone(), now);
        record.grants = invite.grants.clone();
        record.expires_at = invite
            .access_for_ms
            .map(|ms| now.plus(Duration::from_millis(ms)));
        record.node_keys = vec![NodeKey { key, until: None }];
        record.addresses = self.newcomer_addresses(connection, &request.addresses);
        let mut row = AuditRow::event(now, peer.as_str(), "invites/redeem");
        row.surface = Surface::JOIN;
        row.resource = Some(invite.id.clone());
        let change = IdentityChange::RedeemInvite {
            invite: invite.id.clone(),
            peer: record,
            now,
        };
        let applied = self.identities.apply(change, row).await;
        applied.map_err(redeem_error)?;
        let held = self.identities.peer(peer.as_str());
        (self.joined)(&peer);
        tracing::info!(%peer, gives = %clean_foreign_text(&request.gives.join(" "), TEXT_CHARS_MAX).replace('\n', " "), "a peer joined");
        Ok(Joined {
            name: self.node_name.clone(),
            gives: held
                .as_ref()
                .map(|held| told(&held.grants))
                .unwrap_or_default(),
            expires_at: held.and_then(|held| held.expires_at),
            you_are: peer,
            addresses: told_addresses((self.own_addresses)()),
            network: self.network(),
        })
    }

    /// What makes the newcomer a member of this node's network.
    fn network(&self) -> Option<String> {
        let secret = self.finder.secret().filter(|_| self.finder.gossips())?;
        Some(hex32::encode(secret.expose()))
    }

    fn holds(&self, peer: &PeerId, key: &[u8; 32]) -> bool {
        let held = self.identities.peer(peer.as_str());
        held.is_some_and(|held| held.node_keys.iter().any(|held| held.key == *key))
    }

    /// The name the invite gives, or the newcomer's own if that is free.
    fn newcomer_name(&self, invite: &InviteRecord, own: &str) -> Result<PeerId, CallError> {
        if let Some(name) = &invite.name {
            return Ok(name.clone());
        }
        let own = PeerId::from_text(own).ok_or_else(|| {
            CallError::invalid_field(
                "/name",
                "this name cannot be made a peer's name; give another with --name",
            )
        })?;
        crate::ops::free_name(&self.identities, &own).map_err(|mut taken| {
            taken.message += "; ask for an invite with another --name";
            taken
        })
    }

    fn newcomer_addresses(
        &self,
        connection: &QuicConnection,
        said: &PeerAddresses,
    ) -> PeerAddresses {
        let seen = connection.remote_addresses();
        let loopback = seen
            .iter()
            .any(|address| address.ip().to_canonical().is_loopback());
        let relays = self.relays.learn(&said.relays, loopback);
        PeerAddresses {
            direct: vetted(&said.direct, loopback),
            relays: relays.iter().map(ToString::to_string).collect(),
        }
    }

    async fn refused(&self, connection: &QuicConnection, code: &str) {
        let key = hex32::encode(connection.inner().remote_id().as_bytes());
        let mut row = AuditRow::event(
            self.identities.now(),
            &format!("key:{}", &key[..16]),
            "invites/redeem",
        );
        row.surface = Surface::JOIN;
        row.outcome = AuditOutcome::code(code.to_owned().into());
        self.audit.record(row).await;
    }
}

/// Grants as told to the other side.
fn told(grants: &Grants) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut bytes = 0;
    for (at, grant) in grants.iter().map(ToString::to_string).enumerate() {
        bytes += grant.len() + 3;
        if bytes > GIVES_BYTES_MAX {
            texts.push(format!("and {} more", grants.iter().count() - at));
            break;
        }
        texts.push(grant);
    }
    texts
}

/// Addresses as told to the other side.
fn told_addresses(mut places: PeerAddresses) -> PeerAddresses {
    places.direct.truncate(ADDRESSES_MAX);
    places.relays.retain(|url| url.len() <= RELAY_BYTES_MAX);
    places.relays.truncate(RELAYS_MAX);
    places
}

fn too_many_failures(delay: Duration) -> CallError {
    let message = "too many failed attempts; one of them waits for its answer already";
    CallError::new(ErrorCode::RateLimited, message).with_retry_after(delay)
}

fn request_hash(secret: &str) -> Result<[u8; 32], CallError> {
    let bytes = data_encoding::HEXLOWER
        .decode(secret.as_bytes())
        .map_err(|_| CallError::domain("TICKET_INVALID", "the ticket's secret is malformed"))?;
    Ok(secret_hash(&bytes))
}

fn redeem_error(error: StoreError) -> CallError {
    match error {
        StoreError::InviteUsed => CallError::domain(
            "TICKET_USED",
            "this ticket was used already; ask for a new one",
        ),
        StoreError::InviteExpired => CallError::domain(
            "TICKET_EXPIRED",
            "this ticket has expired; ask for a new one",
        ),
        StoreError::InviteRevoked => {
            CallError::domain("TICKET_REVOKED", "this ticket was taken back")
        }
        StoreError::PeerExists(peer) => CallError::new(
            ErrorCode::Conflict,
            format!("there is a peer `{peer}` already; ask for an invite with another --name"),
        ),
        StoreError::CredentialTaken(peer) => CallError::new(
            ErrorCode::Conflict,
            format!("this node is a peer there already, as `{peer}`"),
        ),
        other => {
            tracing::error!(cause = %other, "an invite could not be redeemed");
            // The ticket is as it was.
            let code = match other {
                StoreError::NoSpace(_) | StoreError::Disk(_) => ErrorCode::Unavailable,
                _ => ErrorCode::Internal,
            };
            CallError::new(code, "the inviting node could not store the new peer")
        }
    }
}

async fn read_message<T: DeserializeOwned>(
    recv: &mut (impl tokio::io::AsyncRead + Unpin),
) -> std::io::Result<T> {
    let mut text = Vec::new();
    recv.take(MESSAGE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .await?;
    if text.len() as u64 > MESSAGE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "longer than {MESSAGE_BYTES_MAX} bytes"
        )));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// What the newcomer's side needs to join.
pub(crate) struct JoinRequest<'a> {
    pub(crate) ticket: &'a Ticket,
    pub(crate) own_name: &'a str,
    pub(crate) own_addresses: PeerAddresses,
    pub(crate) gives: &'a Grants,
    pub(crate) relays: &'a Relays,
}

/// The relays at which this node has a place. If it may get one at a relay of
/// `learned`, the outcome is waited for.
async fn homes(endpoint: &Endpoint, relays: &Relays, learned: &[RelayAddress]) -> Vec<RelayUrl> {
    let chosen = relays.chosen();
    let mut watched = endpoint.home_relay_status();
    if learned.iter().any(|relay| chosen.contains(relay)) {
        let began = Instant::now();
        let mut until = began + HOME_MAX;
        let mut homes = watched.get();
        while !is_decided(&homes) {
            // The next try may succeed, beside a connection with the token,
            // which the relay would end then.
            if homes.iter().any(|home| home.last_error().is_some()) {
                until = began + HOME_FAILING_MAX;
            }
            // What is not known by then is taken for a refusal.
            match timeout_at(until, watched.updated()).await {
                Ok(Ok(changed)) => homes = changed,
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }
    let homes = watched.get().into_iter();
    homes
        .filter(RelayStatus::is_connected)
        .map(|home| home.url().clone())
        .collect()
}

/// Whether a ticket leads to this machine itself, as when somebody tries things
/// out: then loopback means the same for both sides. Whoever redeems a ticket
/// vouches for its addresses.
pub(crate) fn is_near(ticket: &Ticket) -> bool {
    let is_own = |ip: IpAddr| !ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok();
    let mut ips = ticket.addresses.iter().map(|at| at.ip().to_canonical());
    ips.any(|ip| ip.is_loopback() || is_own(ip))
}

/// Whether a node's place at a relay is one, or was refused.
fn is_decided(homes: &[RelayStatus]) -> bool {
    let is_decided =
        |home: &RelayStatus| home.is_connected() || home.auth_denied_reason().is_some();
    !homes.is_empty() && homes.iter().all(is_decided)
}

/// Takes tokens back as soon as the library has read them, which it does once,
/// when it begins to connect: a relay that is known for longer may be taken for
/// this node's home, and would stay that.
async fn take_back(endpoint: &Endpoint, presented: Vec<Presented>) {
    let counted = &endpoint.metrics().socket;
    let tries = || counted.relay_conns_success.get() + counted.relay_conns_failed.get();
    let (before, began) = (tries(), Instant::now());
    tokio::time::sleep(SHOWN_MIN).await;
    while tries() == before && began.elapsed() < SHOWN_MAX {
        tokio::time::sleep(SHOWN_MIN / 10).await;
    }
    for shown in presented {
        let url = shown.url().clone();
        drop(shown);
        // It looks for its home again, if it has another relay.
        endpoint.remove_relay(&url).await;
    }
}

/// Redeems a ticket at the node that made it.
pub(crate) async fn redeem(
    endpoint: &Endpoint,
    request: JoinRequest<'_>,
) -> Result<Joined, CallError> {
    let ticket = request.ticket;
    let unreached = |reason: String| {
        let message = format!("the inviting node was not reached: {reason}");
        CallError::new(ErrorCode::Unavailable, message)
            .with_details(serde_json::json!({ "invite": invite_id(&ticket.secret_hash()) }))
    };
    let learned = request.relays.learn(&ticket.relays, is_near(ticket));
    let homes = homes(endpoint, request.relays, &learned).await;
    let (known_at, new_at): (Vec<RelayAddress>, Vec<RelayAddress>) = learned
        .into_iter()
        .partition(|relay| homes.contains(relay.url()));
    let places = PeerAddresses {
        direct: ticket.addresses.clone(),
        relays: known_at.iter().map(ToString::to_string).collect(),
    };
    let mut address = endpoint_addr(&ticket.node_id, &places, request.relays)
        .ok_or_else(|| CallError::domain("TICKET_INVALID", "the ticket names no valid node"))?;
    // A relay of the inviting node lets its guests in. It is dialled under one
    // URL alone: relays answer a key on its newest connection, so that of two
    // the first would wait for replies for ever.
    let token = relay_token(&ticket.secret_hash());
    let presented: Vec<Presented> = new_at
        .iter()
        .filter(|_| !request.relays.are_off())
        .map(|relay| request.relays.present(relay, &token))
        .collect();
    for presented in &presented {
        address = address.with_relay_url(presented.url().clone());
    }
    let exchange = async {
        let connection =
            endpoint
                .connect(address, ALPN)
                .await
                .map_err(|error| match is_shut(&error) {
                    true => no_invite(),
                    false => unreached(error.to_string()),
                })?;
        let connection = QuicConnection::new(connection);
        let message = Request {
            secret: data_encoding::HEXLOWER.encode(&ticket.secret),
            name: request.own_name.to_owned(),
            addresses: told_addresses(request.own_addresses),
            gives: told(request.gives),
        };
        let text = serde_json::to_vec(&message).map_err(|error| unreached(error.to_string()))?;
        let answer = match ask(&connection, &text).await {
            Ok(answer) => answer,
            Err(error) => return Err(closed(&connection, error, &unreached).await),
        };
        connection.close(connection_code::DONE, "done");
        match answer {
            Answer::Joined(mut joined) => {
                for text in &mut joined.gives {
                    *text = clean_foreign_text(text, TEXT_CHARS_MAX);
                }
                Ok(joined)
            }
            Answer::Refused(mut error) => {
                error.message = clean_foreign_text(&error.message, TEXT_CHARS_MAX);
                Err(error)
            }
        }
    };
    let exchange = async {
        tokio::pin!(exchange);
        tokio::select! {
            outcome = &mut exchange => outcome,
            () = take_back(endpoint, presented) => exchange.await,
        }
    };
    let outcome = match timeout(EXCHANGE_MAX + DELAY_MAX, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unreached("no answer in time".into())),
    };
    match outcome {
        Err(mut error) if error.is(ErrorCode::Unavailable) => {
            let relays = request.relays;
            let why = match relays.are_off() {
                true if !ticket.relays.is_empty() => {
                    Some("it is at a relay, and this node uses none (`none`)".to_owned())
                }
                true => None,
                false => refusal(endpoint, relays, &new_at, &token).await,
            };
            if let Some(why) = why {
                error.message.push_str("; ");
                error.message.push_str(&why);
            }
            Err(error)
        }
        outcome => outcome,
    }
}

/// Why the first relay that cannot be used cannot, asked after the fact: the
/// library tells of a node's own relay alone.
async fn refusal(
    endpoint: &Endpoint,
    relays: &Relays,
    asked: &[RelayAddress],
    token: &str,
) -> Option<String> {
    let looks = asked.iter().map(|relay| async move {
        let looked = ask_relay(relays, relay, endpoint.secret_key(), token);
        let refused = timeout(REFUSAL_MAX, looked).await.ok()?.err()?;
        Some(format!("its relay {}: {refused}", relay.url()))
    });
    let found = futures::future::join_all(looks).await;
    found.into_iter().flatten().next()
}

async fn ask(connection: &QuicConnection, text: &[u8]) -> std::io::Result<Answer> {
    let opened = connection.open_bi().await;
    let mut stream = opened.map_err(std::io::Error::other)?;
    stream.send.write_all(text).await?;
    stream.send.finish();
    read_message(&mut stream.recv).await
}

/// A node that has no invite at all closes before it reads.
async fn closed(
    connection: &QuicConnection,
    error: std::io::Error,
    unreached: impl Fn(String) -> CallError,
) -> CallError {
    // The end of the stream may be known before that of the connection.
    match timeout(CLOSE_WAIT, connection.inner().closed()).await {
        Ok(reason) if is_shut(&reason) => no_invite(),
        _ => unreached(error.to_string()),
    }
}

/// Whether the other side closed because it lets no stranger in.
pub(crate) fn is_shut(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(ConnectionError::ApplicationClosed(close)) = error.downcast_ref() {
            return close.error_code.into_inner() == u64::from(connection_code::NOT_ADMITTED);
        }
        cause = error.source();
    }
    false
}

fn no_invite() -> CallError {
    CallError::domain(
        "TICKET_WRONG",
        "the inviting node has no open invite: this ticket is not of it, or its clock is ahead",
    )
}

/// Reads a request, or an answer, as it arrives, and does with it what is done
/// before anybody is believed. Answers how many addresses and relays of it
/// could be used.
///
/// # Panics
///
/// If an address or a relay that must not be used could be, or a message that
/// is accepted does not read back as it was written.
#[doc(hidden)]
#[must_use]
pub fn fuzz_join(bytes: &[u8], is_request: bool) -> Option<usize> {
    let (said, written) = if is_request {
        let request: Request = serde_json::from_slice(bytes).ok()?;
        // Names and secrets are judged, whatever they are.
        let _ = (
            PeerId::from_text(&request.name),
            request_hash(&request.secret),
        );
        let _ = clean_foreign_text(&request.gives.join(" "), TEXT_CHARS_MAX);
        let written = serde_json::to_vec(&request).ok()?;
        let again: Request = serde_json::from_slice(&written).expect("written by this release");
        assert_eq!(serde_json::to_vec(&again).ok().as_ref(), Some(&written));
        (request.addresses, written)
    } else {
        let answer: Answer = serde_json::from_slice(bytes).ok()?;
        let written = serde_json::to_vec(&answer).ok()?;
        let again: Answer = serde_json::from_slice(&written).expect("written by this release");
        assert_eq!(serde_json::to_vec(&again).ok().as_ref(), Some(&written));
        match answer {
            Answer::Joined(joined) => {
                let _ = joined.network();
                (joined.addresses, written)
            }
            Answer::Refused(error) => {
                let shown = clean_foreign_text(&error.message, TEXT_CHARS_MAX);
                assert!(shown.chars().count() <= TEXT_CHARS_MAX + 1, "{shown}");
                return Some(0);
            }
        }
    };
    assert!(!written.is_empty());
    let direct = vetted(&said.direct, false);
    assert!(direct.len() <= ADDRESSES_MAX);
    assert!(
        direct
            .iter()
            .all(|address| !address.ip().to_canonical().is_loopback())
    );
    let relays = Relays::new(&[]).learn(&said.relays, false);
    assert!(relays.len() <= RELAYS_MAX);
    Some(direct.len() + relays.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ticket_of_this_machine_is_told_from_one_of_another() {
        let ticket = |address: &str| Ticket {
            node_id: [7; 32],
            addresses: vec![address.parse().unwrap()],
            relays: vec![],
            secret: rand::random(),
            expires_at: Timestamp(0),
        };
        assert!(is_near(&ticket("127.0.0.1:9")));
        for other in ["192.0.2.1:9", "0.0.0.0:9", "[2001:db8::1]:9"] {
            assert!(!is_near(&ticket(other)), "{other}");
        }
        // Where this machine has another address, as nearly every one.
        let at = UdpSocket::bind("0.0.0.0:0").unwrap();
        if at.connect("192.0.2.1:9").is_ok() {
            assert!(is_near(&ticket(&at.local_addr().unwrap().to_string())));
        }
    }

    #[test]
    fn the_answer_of_the_first_release_is_read_and_names_no_network() {
        let text = r#"{"joined":{"name":"home","you_are":"laptop","gives":["reader"],"addresses":{"direct":["192.0.2.1:1"],"relays":[]}}}"#;
        let Answer::Joined(mut joined) = serde_json::from_str(text).unwrap() else {
            panic!("it joined");
        };
        assert!(joined.network().is_none());
        assert!(!serde_json::to_string(&joined).unwrap().contains("network"));
        for (text, reads) in [
            ("07".repeat(32), true),
            ("07".repeat(31), false),
            ("no".into(), false),
        ] {
            joined.network = Some(text);
            assert_eq!(joined.network().is_some(), reads);
        }
    }
}
