//! The operation registry and the door in front of it: what a node can do,
//! and who may ask.
//!
//! Every surface (native calls, SSH, HTTP, MCP, file sync) turns bytes into a
//! [`Call`], or asks for a [`Permit`], and hands it to the [`Dispatcher`].
//! Behind that door the order never varies: resolve, visibility, access,
//! limits, input schema, handler, output schema, error mapping, audit.
//! Handlers are private to the [`Registry`]: skipping access control does not
//! compile.
//!
//! Not here: sockets, disks, environment variables, wire formats, printing.
//! Storage is a set of narrow traits in [`storage`] with in-memory adapters;
//! connections are the neutral traits of [`transport`].
//!
//! ```
//! use alknet_core::{Caller, Call, Dispatcher, Operation, Registry};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! registry.register(vec![
//!     Operation::query("demo/double", "Doubles a number.")
//!         .example(json!(21), json!(42))
//!         .handler(|_cx, n: u32| async move { Ok(n * 2) }),
//! ])?;
//! let door = Dispatcher::builder(registry).build();
//! let reply = door.call(Call::new("demo/double", Caller::host())?.input(&21)).await?;
//! assert_eq!(reply.bytes(), "42");
//! # Ok(())
//! # }
//! ```

mod access;
mod api_key;
mod audit;
mod bytepipe;
mod call;
mod context;
mod credential;
mod discovery;
mod dispatch;
mod error;
mod explain;
pub mod files;
mod gate;
mod handler;
mod idempotency;
mod identity;
mod import;
mod inflight;
mod json;
mod limits;
mod name;
mod near;
mod operation;
mod permit;
mod registry;
mod resource;
mod role;
mod schema;
mod secret;
mod spec;
mod ssh_key;
pub mod storage;
mod time_span;
pub mod transport;

pub use crate::{
    access::{Access, AccessControl, JsonPointer, PointerError, ResourceRule},
    api_key::{ApiKey, ApiKeyError, ApiKeyProof, KeyId},
    audit::{AuditLost, AuditOutcome, AuditRow, AuditSink, AuditWriter, Surface},
    bytepipe::{
        ByteCounter, ByteReceiver, ByteSender, CHUNK_COST_MIN, Chunk, PIPE_WINDOW_BYTES,
        PipeClosed, byte_pipe,
    },
    call::{
        Call, CallId, Input, NodeId, Originator, Output, ROUTE_STEPS_MAX, Route, RouteStep,
        TraceContext, parse_route,
    },
    context::{
        Authority, Capabilities, Context, Env, Interaction, InteractionEvent, Reach, ReachRule,
    },
    credential::{CredentialName, CredentialNameError, CredentialSlot, CredentialState},
    discovery::{CatalogueEntry, discovery_operations},
    dispatch::{
        ChannelCall, ChannelDone, Dispatcher, DispatcherBuilder, Forwarder, Reply, Subscription,
    },
    error::{CallError, ErrorClass, ErrorCode, Violation},
    explain::{Explanation, Question, Stage, Step, Verdict},
    gate::Decision,
    handler::{Channel, ChannelEnd, ChannelOpening, Control, Handler, channel_pair},
    identity::{Caller, CallerKind, Credential, Identity, IdentityProvider, StaticIdentities},
    import::{
        IMPORT_OPERATIONS_MAX, IMPORT_SCHEMA_BYTES_MAX, ImportError, OperationAdapter,
        clean_foreign_text,
    },
    limits::Limits,
    name::{
        GroupName, NameError, OperationName, OperationPattern, PeerId, RoleName, Scope, ScopeSet,
    },
    near::{brief, edit_distance, nearest},
    operation::{Operation, OperationBuilder, Registration},
    permit::Permit,
    registry::{
        Change, Entry, RegistrationError, RegistrationErrors, Registry, SessionOverlay, View,
    },
    resource::{
        AddressClass, ResourceError, ResourceGrant, ResourceKind, ResourcePattern, ResourceSet,
        canonical_resource,
    },
    role::{GrantTarget, Grants, Role, RoleSet, TargetError},
    schema::{Schema, SchemaError},
    secret::{SECRET_BYTES_MAX, Secret},
    spec::{
        CallRate, ErrorSpec, Example, Hints, Kind, OperationLimits, OperationSpec, Resume,
        Visibility,
    },
    ssh_key::{SSH_KEY_TEXT_BYTES_MAX, SshKeyError, SshPublicKey},
    time_span::{TimeSpan, TimeSpanError},
};
