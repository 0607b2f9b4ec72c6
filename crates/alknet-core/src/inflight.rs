//! Calls in flight and calls a second: of a caller, of each originator behind
//! it, and of the node.

use crate::{
    call::Originator,
    error::{CallError, ErrorCode},
    identity::{Caller, CallerKind, Credential},
    limits::Limits,
    name::{OperationName, PeerId},
    spec::{CallRate, Kind, OperationLimits},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Callers remembered; beyond it, those with nothing in flight are forgotten.
const CALLERS_KEPT: usize = 4096;

#[derive(Debug)]
pub(crate) struct InFlight {
    limits: Limits,
    node: Arc<AtomicUsize>,
    limited: AtomicU64,
    /// Of operations that limit their calls, those of all callers.
    operations: Mutex<HashMap<OperationName, Arc<OfOperation>>>,
    callers: Mutex<HashMap<(CallerKind, PeerId), Arc<CallerState>>>,
}

/// What is asked for a place.
pub(crate) struct Entering<'a> {
    pub(crate) caller: &'a Caller,
    /// Whether the caller is this node's own: its program or its command line.
    pub(crate) is_own: bool,
    pub(crate) originator: Option<&'a Originator>,
    pub(crate) operation: &'a OperationName,
    /// What the operation allows.
    pub(crate) own: OperationLimits,
    pub(crate) kind: Kind,
}

#[derive(Debug, Default)]
struct CallerState {
    own: Counts,
    operations: Mutex<HashMap<OperationName, Arc<OfOperation>>>,
    originators: Mutex<HashMap<Originator, Arc<Counts>>>,
    /// Shared by the originators beyond those that are remembered.
    others: Arc<Counts>,
}

/// What one caller, or one originator behind it, has in flight.
#[derive(Debug, Default)]
struct Counts {
    /// Subscriptions included, channels not: one forward alone may carry a
    /// thousand of them.
    calls: AtomicUsize,
    subscriptions: AtomicUsize,
    channels: AtomicUsize,
    bucket: Mutex<Bucket>,
    bytes: Mutex<Bucket>,
}

/// Calls of an operation that has limits of its own.
#[derive(Debug, Default)]
struct OfOperation {
    running: AtomicUsize,
    bucket: Mutex<Bucket>,
}

/// One of them; given back on drop.
#[derive(Debug)]
struct Running(Arc<OfOperation>);

impl OfOperation {
    fn enter(self: &Arc<Self>, most: usize) -> Option<Running> {
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        // Dropped, and so taken back, if it is one too many.
        let entered = Running(self.clone());
        (running < most).then_some(entered)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of each there may be.
#[derive(Clone, Copy)]
struct Most {
    calls: usize,
    subscriptions: usize,
    channels: usize,
}

/// The limit that is reached: how many, of what.
type Reached = (usize, &'static str);

impl Counts {
    /// Counts one more, and says if that is too many. Taken back by
    /// [`Counts::leave`] either way.
    fn enter(&self, kind: Kind, most: Most) -> Result<(), Reached> {
        let within = |counter: &AtomicUsize, most: usize, what| {
            let before = counter.fetch_add(1, Ordering::Relaxed);
            if before < most {
                Ok(())
            } else {
                Err((most, what))
            }
        };
        if kind == Kind::Channel {
            return within(&self.channels, most.channels, "channels");
        }
        let calls = within(&self.calls, most.calls, "calls in flight");
        let subscriptions = match kind {
            Kind::Subscription => within(&self.subscriptions, most.subscriptions, "subscriptions"),
            _ => Ok(()),
        };
        calls.and(subscriptions)
    }

    fn leave(&self, kind: Kind) {
        if kind == Kind::Channel {
            self.channels.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.calls.fetch_sub(1, Ordering::Relaxed);
        if kind == Kind::Subscription {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A burst, then so many a second.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// Bytes that a caller may have carried, then so many a second.
#[derive(Clone, Copy, Debug)]
struct ByteRate {
    burst: f64,
    per_second: f64,
}

/// What was spent lately, calls or bytes, and counts for less as time passes.
#[derive(Debug, Default)]
struct Bucket {
    spent: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn spent_by(&self, now: Instant, per_second: f64) -> f64 {
        let passed = self
            .at
            .map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        (self.spent - passed * per_second).max(0.0)
    }

    fn spend(&mut self, amount: f64, per_second: f64) {
        let now = Instant::now();
        self.spent = self.spent_by(now, per_second) + amount;
        self.at = Some(now);
    }

    /// Whether what was carried is paid for, as far as the burst goes. How
    /// much a call carries is known only when it has: the next one waits.
    fn check(&self, rate: ByteRate) -> Result<(), CallError> {
        let over = self.spent_by(Instant::now(), rate.per_second) - rate.burst;
        if over < 0.0 {
            return Ok(());
        }
        let wait = Duration::from_secs_f64((over + 1.0) / rate.per_second);
        let message = format!("more than {} bytes a second", rate.per_second);
        Err(CallError::new(ErrorCode::RateLimited, message).with_retry_after(wait))
    }

    fn take(&mut self, rate: Rate) -> Result<(), CallError> {
        let now = Instant::now();
        self.spent = self.spent_by(now, f64::from(rate.per_second.max(1)));
        self.at = Some(now);
        let left = f64::from(rate.burst.max(1)) - self.spent;
        if left >= 1.0 {
            self.spent += 1.0;
            return Ok(());
        }
        let per_second = rate.per_second.max(1);
        let wait = Duration::from_secs_f64((1.0 - left) / f64::from(per_second));
        let message = format!("more than {per_second} calls a second");
        Err(CallError::new(ErrorCode::RateLimited, message).with_retry_after(wait))
    }
}

/// A place among the calls in flight; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    node: Arc<AtomicUsize>,
    kind: Kind,
    caller: Arc<CallerState>,
    originator: Option<Arc<Counts>>,
    _operation: [Option<Running>; 2],
    bytes: Option<ByteRate>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            node: Arc::default(),
            limited: AtomicU64::new(0),
            operations: Mutex::default(),
            callers: Mutex::default(),
        }
    }

    /// Calls in flight in the node.
    pub(crate) fn count(&self) -> usize {
        self.node.load(Ordering::Relaxed)
    }

    /// Calls refused since the start.
    pub(crate) fn limited(&self) -> u64 {
        self.limited.load(Ordering::Relaxed)
    }

    /// Takes a place for a call, or says at once which limit is reached.
    pub(crate) fn enter(&self, call: &Entering<'_>) -> Result<Place, CallError> {
        self.place(call).inspect_err(|_| {
            self.limited.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn place(&self, call: &Entering<'_>) -> Result<Place, CallError> {
        let (caller, kind) = (call.caller, call.kind);
        let state = self.state(caller);
        // Nested calls and the host are held by the node's limit alone: their
        // root was counted where it came in.
        let counted = matches!(caller.kind(), CallerKind::Peer | CallerKind::Anonymous);
        let rate = self.rate(call);
        // Only a caller that is known is taken at its word for who is behind it.
        let originator = call
            .originator
            .filter(|_| caller.kind() == CallerKind::Peer)
            .map(|from| (from, state.originator(from, &self.limits, rate)));
        if let Some(rate) = rate {
            // A key keeps to its rate whoever it says is behind it; of a peer,
            // each originator has its own.
            let counts = match &originator {
                Some((_, behind)) if !is_key_or_unknown(caller) => behind,
                _ => &state.own,
            };
            lock(&counts.bucket).take(rate)?;
        }
        let node = self.node.fetch_add(1, Ordering::Relaxed);
        let own = state.own.enter(kind, self.most_of_a_peer());
        let behind = originator
            .as_ref()
            .map(|(_, behind)| behind.enter(kind, self.most_of_an_originator()));
        let (from, behind_counts) = originator.unzip();
        // From here on dropping it takes everything back.
        let mut place = Place {
            node: self.node.clone(),
            kind,
            caller: state.clone(),
            originator: behind_counts,
            _operation: [None, None],
            bytes: self.byte_rate(call),
        };
        let most = self.limits.calls_per_node_max;
        if node >= most {
            return Err(over("`the node`", (most, "calls in flight")));
        }
        if counted && let Err(reached) = own {
            return Err(over(&format!("`{}`", caller.id()), reached));
        }
        if let (Some(from), Some(Err(reached))) = (from, behind) {
            return Err(over(&format!("`{from}`, at `{}`,", caller.id()), reached));
        }
        if let Some(rate) = place.bytes {
            lock(&place.paying().bytes).check(rate)?;
        }
        place._operation = self.enter_operation(call, &state)?;
        Ok(place)
    }

    /// The limits that the operation has of its own: of each caller, then of
    /// all. Nested calls are counted too: the operation is what is protected.
    fn enter_operation(
        &self,
        call: &Entering<'_>,
        state: &CallerState,
    ) -> Result<[Option<Running>; 2], CallError> {
        let who = || format!("`{}`", call.operation);
        let limits = &call.own;
        let mut entered = [None, None];
        if limits.in_flight_max.is_some() || limits.rate.is_some() {
            let of_caller = of_operation(&state.operations, call.operation);
            if let Some(rate) = limits.rate {
                lock(&of_caller.bucket).take(rate.into())?;
            }
            if let Some(most) = limits.in_flight_max {
                let reached = (most, "calls in flight of one caller");
                let running = of_caller.enter(most).ok_or_else(|| over(&who(), reached))?;
                entered[0] = Some(running);
            }
        }
        if let Some(most) = limits.in_flight_all_max {
            let of_all = of_operation(&self.operations, call.operation);
            let reached = (most, "calls in flight of all callers");
            let running = of_all.enter(most).ok_or_else(|| over(&who(), reached))?;
            entered[1] = Some(running);
        }
        Ok(entered)
    }

    /// The bytes a second that hold for a caller, if they do.
    fn byte_rate(&self, call: &Entering<'_>) -> Option<ByteRate> {
        let per_second = self.limits.bytes_per_second;
        let counted = matches!(call.caller.kind(), CallerKind::Peer | CallerKind::Anonymous);
        (counted && !call.is_own && per_second > 0).then_some(ByteRate {
            burst: self.limits.bytes_burst.max(1) as f64,
            per_second: per_second as f64,
        })
    }

    /// The limits that hold for a call, in words; what of them is taken now
    /// has no say.
    pub(crate) fn told(&self, call: &Entering<'_>) -> String {
        let node = self.limits.calls_per_node_max;
        let mut told = vec![format!("at most {node} calls in flight of the node")];
        if matches!(call.caller.kind(), CallerKind::Peer | CallerKind::Anonymous) {
            let most = self.most_of_a_peer();
            told.push(match call.kind {
                Kind::Channel => format!("{} channels of one caller", most.channels),
                Kind::Subscription => format!(
                    "{} of one caller, {} of them subscriptions",
                    most.calls, most.subscriptions
                ),
                _ => format!("{} of one caller", most.calls),
            });
        }
        if let Some(most) = call.own.in_flight_max {
            told.push(format!("{most} of one caller of this operation"));
        }
        if let Some(most) = call.own.in_flight_all_max {
            told.push(format!("{most} of this operation"));
        }
        if let Some(CallRate { burst, per_second }) = call.own.rate {
            told.push(format!(
                "{burst} at once of this operation, then {per_second} a second"
            ));
        }
        if let Some(Rate { burst, per_second }) = self.rate(call) {
            told.push(format!("{burst} at once, then {per_second} a second"));
        }
        told.join("; ")
    }

    /// The rate that holds for a caller, if one does.
    fn rate(&self, call: &Entering<'_>) -> Option<Rate> {
        if is_key_or_unknown(call.caller) {
            return Some(Rate {
                burst: self.limits.rate_burst,
                per_second: self.limits.rate_per_second,
            });
        }
        let is_peer = call.caller.kind() == CallerKind::Peer && !call.is_own;
        (is_peer && self.limits.peer_rate_per_second > 0).then_some(Rate {
            burst: self.limits.peer_rate_burst,
            per_second: self.limits.peer_rate_per_second,
        })
    }

    fn most_of_a_peer(&self) -> Most {
        Most {
            calls: self.limits.calls_per_peer_max,
            subscriptions: self.limits.subscriptions_per_peer_max,
            channels: self.limits.channels_per_peer_max,
        }
    }

    fn most_of_an_originator(&self) -> Most {
        Most {
            calls: self.limits.calls_per_originator_max,
            subscriptions: self.limits.subscriptions_per_originator_max,
            channels: self.limits.channels_per_originator_max,
        }
    }

    fn state(&self, caller: &Caller) -> Arc<CallerState> {
        let key = (caller.kind(), caller.id().clone());
        let mut callers = lock(&self.callers);
        if let Some(state) = callers.get(&key) {
            return state.clone();
        }
        if callers.len() >= CALLERS_KEPT {
            callers.retain(|_, state| Arc::strong_count(state) > 1);
        }
        let state = Arc::<CallerState>::default();
        callers.insert(key, state.clone());
        state
    }
}

impl CallerState {
    /// What an originator behind this caller has in flight. Names are free to
    /// whoever makes them up: when there are too many, those that have nothing
    /// open and nothing to make up for are forgotten, and the rest shares.
    fn originator(&self, from: &Originator, limits: &Limits, rate: Option<Rate>) -> Arc<Counts> {
        let mut originators = lock(&self.originators);
        if let Some(counts) = originators.get(from) {
            return counts.clone();
        }
        if originators.len() >= limits.originators_per_peer_max {
            let now = Instant::now();
            let is_settled = |counts: &Counts| {
                rate.is_none_or(|rate| {
                    let per_second = f64::from(rate.per_second.max(1));
                    lock(&counts.bucket).spent_by(now, per_second) <= 0.0
                })
            };
            originators.retain(|_, counts| Arc::strong_count(counts) > 1 || !is_settled(counts));
        }
        if originators.len() >= limits.originators_per_peer_max {
            return self.others.clone();
        }
        let counts = Arc::<Counts>::default();
        originators.insert(from.clone(), counts.clone());
        counts
    }
}

fn is_key_or_unknown(caller: &Caller) -> bool {
    caller.kind() == CallerKind::Anonymous
        || matches!(caller.credential(), Some(Credential::ApiKey(_)))
}

fn over(who: &str, (most, what): Reached) -> CallError {
    CallError::new(
        ErrorCode::RateLimited,
        format!("{who} has {most} {what}, which is the limit"),
    )
    .with_retry_after(Duration::from_millis(100))
}

fn of_operation(
    operations: &Mutex<HashMap<OperationName, Arc<OfOperation>>>,
    name: &OperationName,
) -> Arc<OfOperation> {
    let mut operations = lock(operations);
    if let Some(known) = operations.get(name) {
        return known.clone();
    }
    operations.entry(name.clone()).or_default().clone()
}

impl From<CallRate> for Rate {
    fn from(rate: CallRate) -> Self {
        Self {
            burst: rate.burst,
            per_second: rate.per_second,
        }
    }
}

impl Place {
    /// Whose bytes they are: of each originator behind a peer its own.
    fn paying(&self) -> &Counts {
        match &self.originator {
            Some(behind) => behind,
            None => &self.caller.own,
        }
    }

    /// What counts the bytes that the call carries, if somebody does.
    pub(crate) fn meter(&self) -> Option<Meter> {
        Some(Meter {
            caller: self.caller.clone(),
            originator: self.originator.clone(),
            rate: self.bytes?,
        })
    }
}

/// Counts the bytes of a call against what its caller may have carried.
#[derive(Debug)]
pub(crate) struct Meter {
    caller: Arc<CallerState>,
    originator: Option<Arc<Counts>>,
    rate: ByteRate,
}

impl Meter {
    pub(crate) fn count(&self, bytes: u64) {
        let paying = self.originator.as_deref().unwrap_or(&self.caller.own);
        lock(&paying.bytes).spend(bytes as f64, self.rate.per_second);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.node.fetch_sub(1, Ordering::Relaxed);
        self.caller.own.leave(self.kind);
        if let Some(behind) = &self.originator {
            behind.leave(self.kind);
        }
    }
}
