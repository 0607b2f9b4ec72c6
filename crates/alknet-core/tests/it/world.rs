//! A node in a test: operations, identities, a door.

use alknet_core::{
    ApiKey, ApiKeyProof, AuditRow, AuditWriter, Call, CallError, Caller, Credential, Dispatcher,
    DispatcherBuilder, ErrorCode, GrantTarget, Grants, Handler, Identity, OperationName, Output,
    PeerId, Registration, Registry, RoleSet, RouteStep, SessionOverlay, StaticIdentities,
    storage::{AuditFilter, AuditLog, MemoryAuditLog},
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;

/// Operations, identities and the door in front of them.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) ids: Arc<StaticIdentities>,
    pub(crate) door: Dispatcher,
}

/// What was granted to a peer, as it is written on the command line.
pub(crate) fn identity(id: &str, grants: &[&str]) -> Identity {
    let grants: Grants = grants
        .iter()
        .map(|text| GrantTarget::parse(text).unwrap())
        .collect();
    let mut identity = Identity::empty(peer(id));
    RoleSet::default().add_to(&grants, &mut identity);
    identity
}

pub(crate) fn peer(id: &str) -> PeerId {
    PeerId::parse(id).unwrap()
}

pub(crate) fn name(text: &str) -> OperationName {
    OperationName::parse(text).unwrap()
}

/// A node key that belongs to this name.
pub(crate) fn key(id: &str) -> Credential {
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id.as_bytes());
    Credential::NodeKey(key)
}

/// What is left of an API key made of this number.
pub(crate) fn api_key(number: u8) -> Credential {
    let key = ApiKey::of_random([number; 5], &[number; 32]);
    Credential::ApiKey(ApiKeyProof::parse(key.expose()).unwrap())
}

impl World {
    pub(crate) fn new(operations: Vec<Registration>) -> Self {
        Self::with(operations, |builder| builder)
    }

    pub(crate) fn with(
        operations: Vec<Registration>,
        set: impl FnOnce(DispatcherBuilder) -> DispatcherBuilder,
    ) -> Self {
        let (registry, ids) = (Registry::new(), Arc::new(StaticIdentities::default()));
        registry.register(operations).unwrap();
        let builder = Dispatcher::builder(registry.clone()).identities(ids.clone());
        Self {
            registry,
            ids,
            door: set(builder).build(),
        }
    }

    /// A peer with these grants; again with others, it has those.
    pub(crate) fn caller(&self, id: &str, grants: &[&str]) -> Caller {
        self.ids.put(key(id), identity(id, grants));
        Caller::resolve(&*self.ids, key(id)).unwrap()
    }

    pub(crate) async fn call(
        &self,
        caller: &Caller,
        operation: &str,
        input: Value,
    ) -> Result<Value, CallError> {
        let call = Call::new(operation, caller.clone()).unwrap().input(&input);
        self.door.call(call).await?.into_output().into_value()
    }

    /// A call on a peer.
    pub(crate) async fn call_on(
        &self,
        caller: &Caller,
        at: &str,
        operation: &str,
    ) -> Result<Value, CallError> {
        let call = Call::new(operation, caller.clone())
            .unwrap()
            .on(route(at))
            .input(&json!({}));
        self.door.call(call).await?.into_output().into_value()
    }
}

pub(crate) fn route(text: &str) -> Vec<RouteStep> {
    alknet_core::parse_route(text).unwrap()
}

#[track_caller]
pub(crate) fn is(error: &CallError, code: ErrorCode) {
    assert!(error.is(code), "{error}, not {code}");
}

#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(
    outcome: Result<T, CallError>,
    code: ErrorCode,
) -> CallError {
    let error = outcome.unwrap_err();
    is(&error, code);
    error
}

/// Answers with its own input.
pub(crate) fn echo() -> Handler {
    Handler::Unary(Arc::new(|_cx, input| {
        Box::pin(async move { Ok(Output::Value(input.into_value()?)) })
    }))
}

/// Answers with one item: its input.
pub(crate) fn echo_stream() -> Handler {
    Handler::Stream(Arc::new(|_cx, input| {
        Box::pin(async move {
            let item = Output::Value(input.into_value()?);
            Ok(futures::stream::iter([Ok(item)]).boxed())
        })
    }))
}

/// Accepts with its input, and ends.
pub(crate) fn echo_channel() -> Handler {
    Handler::Channel(Arc::new(|_cx, input, opening| {
        Box::pin(async move {
            let _end = opening.accept(&input.into_value()?)?;
            Ok(Output::Value(json!("done")))
        })
    }))
}

/// An audited door: what it builds with, and where its rows are.
pub(crate) struct Audited {
    pub(crate) log: Arc<MemoryAuditLog>,
    stop: tokio::sync::oneshot::Sender<()>,
    writer: tokio::task::JoinHandle<()>,
}

impl Audited {
    pub(crate) fn start() -> (alknet_core::AuditSink, Self) {
        let log = Arc::new(MemoryAuditLog::default());
        let (sink, writer) = AuditWriter::new();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let to = log.clone();
        let writer = tokio::spawn(async move {
            writer.run(to, async { drop(stopped.await) }).await.unwrap();
        });
        (sink, Self { log, stop, writer })
    }

    /// Stops the writer, and answers with all rows in the order of writing.
    pub(crate) async fn rows(self) -> Vec<AuditRow> {
        let _ = self.stop.send(());
        self.writer.await.unwrap();
        let filter = AuditFilter {
            limit: Some(1000),
            ..AuditFilter::default()
        };
        let mut rows = self.log.list(&filter).await.unwrap();
        rows.reverse();
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// A session that offers these.
pub(crate) fn session(world: &World, operations: Vec<Registration>) -> Arc<SessionOverlay> {
    Arc::new(SessionOverlay::new(&world.registry.view(), operations).unwrap())
}
