//! Calls in flight and calls a second, per caller and for the node.

use crate::{
    error::{CallError, ErrorCode},
    identity::{Caller, CallerKind, Credential},
    limits::Limits,
    name::{OperationName, PeerId},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
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
    callers: Mutex<HashMap<(CallerKind, PeerId), Arc<CallerState>>>,
}

#[derive(Debug)]
struct CallerState {
    calls: AtomicUsize,
    subscriptions: AtomicUsize,
    slow: Mutex<Slow>,
}

#[derive(Debug)]
struct Slow {
    operations: HashMap<OperationName, usize>,
    tokens: f64,
    filled: Instant,
}

/// A place among the calls in flight; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    node: Arc<AtomicUsize>,
    caller: Arc<CallerState>,
    subscription: bool,
    operation: Option<OperationName>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            node: Arc::default(),
            callers: Mutex::default(),
        }
    }

    /// Calls in flight in the node.
    pub(crate) fn count(&self) -> usize {
        self.node.load(Ordering::Relaxed)
    }

    /// Takes a place for a call, or says at once which limit is reached.
    pub(crate) fn enter(
        &self,
        caller: &Caller,
        operation: &OperationName,
        operation_max: Option<usize>,
        subscription: bool,
    ) -> Result<Place, CallError> {
        let state = self.state(caller);
        // Nested calls and the host are held by the node's limit alone: their
        // root was counted where it came in.
        let counted = matches!(caller.kind(), CallerKind::Peer | CallerKind::Anonymous);
        if counted && is_rate_limited(caller) {
            self.take_token(&state)?;
        }
        let mut place = Place {
            node: self.node.clone(),
            caller: state.clone(),
            subscription,
            operation: None,
        };
        let node = self.node.fetch_add(1, Ordering::Relaxed);
        let calls = state.calls.fetch_add(1, Ordering::Relaxed);
        let subscriptions = if subscription {
            state.subscriptions.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        if node >= self.limits.calls_per_node_max {
            return Err(over(
                "the node",
                self.limits.calls_per_node_max,
                "calls in flight",
            ));
        }
        if counted && calls >= self.limits.calls_per_peer_max {
            return Err(over(
                caller.id().as_str(),
                self.limits.calls_per_peer_max,
                "calls in flight",
            ));
        }
        if counted && subscription && subscriptions >= self.limits.subscriptions_per_peer_max {
            return Err(over(
                caller.id().as_str(),
                self.limits.subscriptions_per_peer_max,
                "subscriptions",
            ));
        }
        if let Some(most) = operation_max {
            let mut slow = lock(&state.slow);
            let running = slow.operations.entry(operation.clone()).or_default();
            if *running >= most {
                return Err(over(
                    operation.as_str(),
                    most,
                    "calls in flight of one caller",
                ));
            }
            *running += 1;
            place.operation = Some(operation.clone());
        }
        Ok(place)
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
        let slow = Slow {
            operations: HashMap::new(),
            tokens: f64::from(self.limits.rate_burst),
            filled: Instant::now(),
        };
        let state = Arc::new(CallerState {
            calls: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            slow: Mutex::new(slow),
        });
        callers.insert(key, state.clone());
        state
    }

    /// Token bucket: a burst, then so many a second.
    fn take_token(&self, state: &CallerState) -> Result<(), CallError> {
        let rate = f64::from(self.limits.rate_per_second.max(1));
        let mut slow = lock(&state.slow);
        let now = Instant::now();
        let grown = now.duration_since(slow.filled).as_secs_f64() * rate;
        slow.tokens = (slow.tokens + grown).min(f64::from(self.limits.rate_burst));
        slow.filled = now;
        if slow.tokens >= 1.0 {
            slow.tokens -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - slow.tokens) / rate);
        let message = format!("more than {} calls a second", self.limits.rate_per_second);
        Err(CallError::new(ErrorCode::RateLimited, message).with_retry_after(wait))
    }
}

fn is_rate_limited(caller: &Caller) -> bool {
    caller.kind() == CallerKind::Anonymous
        || matches!(caller.credential(), Some(Credential::ApiKey(_)))
}

fn over(who: &str, most: usize, what: &str) -> CallError {
    CallError::new(
        ErrorCode::RateLimited,
        format!("`{who}` has {most} {what}, which is the limit"),
    )
    .with_retry_after(Duration::from_millis(100))
}

impl Drop for Place {
    fn drop(&mut self) {
        self.node.fetch_sub(1, Ordering::Relaxed);
        self.caller.calls.fetch_sub(1, Ordering::Relaxed);
        if self.subscription {
            self.caller.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(operation) = &self.operation {
            let mut slow = lock(&self.caller.slow);
            if let Some(running) = slow.operations.get_mut(operation) {
                *running -= 1;
                if *running == 0 {
                    slow.operations.remove(operation);
                }
            }
        }
    }
}
