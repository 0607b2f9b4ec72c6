//! The paved path to an operation: name, kind, one sentence, a handler.

use crate::{
    access::{Access, AccessControl, JsonPointer, ResourceRule},
    call::{Input, Output},
    context::{Authority, Capabilities, Context, Reach, ReachRule},
    credential::{CredentialName, CredentialSlot},
    error::{CallError, ErrorCode},
    handler::{ChannelOpening, Handler, ItemStream},
    identity::Identity,
    name::{OperationName, OperationPattern, PeerId, Scope},
    resource::{ResourceGrant, ResourceKind, canonical_resource},
    schema::Schema,
    spec::{
        CallRate, ErrorSpec, Example, Hints, Kind, OperationLimits, OperationSpec, Resume,
        Visibility,
    },
};
use futures::{Stream, StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// An operation with its code, ready to be registered. What is wrong with it
/// is collected and reported by the registry, for all operations at once.
#[derive(Clone, Debug)]
pub struct Registration {
    pub(crate) name: String,
    pub(crate) spec: Option<OperationSpec>,
    pub(crate) handler: Handler,
    pub(crate) authority: Option<Authority>,
    pub(crate) capabilities: Capabilities,
    pub(crate) credentials: Vec<Arc<CredentialSlot>>,
    pub(crate) secret_input: bool,
    pub(crate) imported: bool,
    pub(crate) foreign_name: Option<String>,
    pub(crate) problems: Vec<String>,
}

impl Registration {
    /// An imported operation: a leaf that composes nothing, whose schemas are
    /// compiled on demand.
    #[must_use]
    pub fn imported(spec: OperationSpec, handler: Handler, foreign_name: Option<String>) -> Self {
        Self {
            name: spec.name.to_string(),
            spec: Some(spec),
            handler,
            authority: None,
            capabilities: Capabilities::default(),
            credentials: Vec::new(),
            secret_input: false,
            imported: true,
            foreign_name,
            problems: Vec::new(),
        }
    }

    /// Declares a credential, as [`OperationBuilder::credential`] does.
    #[must_use]
    pub fn with_credential(mut self, name: CredentialName) -> Self {
        if !self.credentials.iter().any(|slot| *slot.name() == name) {
            self.credentials.push(Arc::new(CredentialSlot::new(name)));
        }
        self
    }

    /// The places of the credentials that it declared, for the assembly to
    /// fill.
    #[must_use]
    pub fn credentials(&self) -> &[Arc<CredentialSlot>] {
        &self.credentials
    }

    /// The name, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The specification, unless something is wrong with it.
    #[must_use]
    pub fn spec(&self) -> Option<&OperationSpec> {
        self.spec.as_ref()
    }
}

/// Where an operation begins.
#[derive(Clone, Copy, Debug)]
pub struct Operation;

impl Operation {
    /// Reads; safe to repeat.
    pub fn query(name: &str, summary: &str) -> OperationBuilder {
        OperationBuilder::new(Kind::Query, name, summary)
    }

    /// Has effects.
    pub fn mutation(name: &str, summary: &str) -> OperationBuilder {
        OperationBuilder::new(Kind::Mutation, name, summary)
    }

    /// Answers with items.
    pub fn subscription(name: &str, summary: &str) -> OperationBuilder {
        OperationBuilder::new(Kind::Subscription, name, summary)
    }

    /// Opens a duplex byte stream.
    pub fn channel(name: &str, summary: &str) -> OperationBuilder {
        OperationBuilder::new(Kind::Channel, name, summary)
    }
}

/// Describes an operation; ends in one of `handler`, `stream`, `channel`.
#[derive(Clone, Debug)]
#[must_use = "an operation needs a handler and a registry"]
pub struct OperationBuilder {
    name: String,
    kind: Kind,
    visibility: Visibility,
    summary: String,
    description: Option<String>,
    input: Option<Schema>,
    output: Option<Schema>,
    errors: Vec<ErrorSpec>,
    access: Option<Access>,
    approve: bool,
    hints: Hints,
    resume: Option<Resume>,
    secret_output: bool,
    examples: Vec<Example>,
    limits: OperationLimits,
    deprecated: Option<String>,
    authority: Option<Authority>,
    capabilities: Capabilities,
    credentials: Vec<CredentialName>,
    secret_input: bool,
    problems: Vec<String>,
}

impl OperationBuilder {
    fn new(kind: Kind, name: &str, summary: &str) -> Self {
        Self {
            name: name.into(),
            kind,
            visibility: Visibility::External,
            summary: summary.into(),
            description: None,
            input: None,
            output: None,
            errors: Vec::new(),
            access: None,
            approve: false,
            hints: Hints::of(kind),
            resume: None,
            secret_output: false,
            examples: Vec::new(),
            limits: OperationLimits::default(),
            deprecated: None,
            authority: None,
            capabilities: Capabilities::default(),
            credentials: Vec::new(),
            secret_input: false,
            problems: Vec::new(),
        }
    }

    /// More than the summary says, in Markdown.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Needs this scope; several calls need every one.
    pub fn requires(mut self, scope: &str) -> Self {
        match Scope::parse(scope) {
            Ok(scope) if !scope.is_wildcard() => self.rule().scopes_all.push(scope),
            Ok(_) => self.problems.push(format!(
                "scope `{scope}` ends in `*`, which only a held scope may"
            )),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Needs one of these scopes.
    pub fn requires_any(mut self, scopes: &[&str]) -> Self {
        for scope in scopes {
            match Scope::parse(scope) {
                Ok(scope) => self.rule().scopes_any.push(scope),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        self
    }

    /// Needs `action` on the resource that the input names at `pointer`.
    pub fn resource(mut self, kind: &str, action: &str, pointer: &str) -> Self {
        match (ResourceKind::parse(kind), JsonPointer::parse(pointer)) {
            (Some(kind), Ok(at)) => self.rule().resources.push(ResourceRule {
                kind,
                action: action.into(),
                at,
                owner: false,
                absent: None,
                resolves: false,
            }),
            (None, _) => self
                .problems
                .push(format!("`{kind}` is no kind of resource")),
            (_, Err(error)) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Lets a caller through to resources that it created itself, by the last
    /// `resource` rule.
    pub fn or_owner(mut self) -> Self {
        match self.rule().resources.last_mut() {
            Some(rule) => rule.owner = true,
            None => self.problems.push("`or_owner` follows a `resource`".into()),
        }
        self
    }

    /// What the operation acts on when its input names no resource, by the last
    /// `resource` rule: a caller that leaves it out needs the right to this.
    pub fn when_absent(mut self, resource: &str) -> Self {
        let Some(rule) = self.rule().resources.last_mut() else {
            self.problems
                .push("`when_absent` follows a `resource`".into());
            return self;
        };
        match canonical_resource(rule.kind, resource) {
            Ok(canonical) => rule.absent = Some(canonical),
            Err(error) => self.problems.push(format!("`{resource}`: {error}")),
        }
        self
    }

    /// Lets a name through, by the last `resource` rule, also if only an
    /// address that it might resolve to is held; the handler asks for each
    /// address, with [`Permit::check_address`](crate::Permit::check_address).
    pub fn or_resolved(mut self) -> Self {
        match self.rule().resources.last_mut() {
            Some(rule) if rule.kind == ResourceKind::Net => rule.resolves = true,
            _ => self
                .problems
                .push("`or_resolved` follows a `resource` of the kind `net`".into()),
        }
        self
    }

    /// Anyone may call it, known or not.
    pub fn public(mut self) -> Self {
        self.access = Some(Access::Public);
        self
    }

    /// Any known caller may call it.
    pub fn authenticated(mut self) -> Self {
        self.access = Some(Access::Authenticated);
        self
    }

    /// States the whole access rule.
    pub fn access(mut self, access: Access) -> Self {
        self.access = Some(access);
        self
    }

    fn rule(&mut self) -> &mut AccessControl {
        if !matches!(self.access, Some(Access::Rule(_))) {
            if self.access.is_some() {
                self.problems
                    .push("states both an open access and a rule".into());
            }
            self.access = Some(Access::Rule(AccessControl::default()));
        }
        match &mut self.access {
            Some(Access::Rule(rule)) => rule,
            _ => unreachable!("set above"),
        }
    }

    /// Exists only for other operations of this node.
    pub fn internal(mut self) -> Self {
        self.visibility = Visibility::Internal;
        self
    }

    /// Needs a person's yes before it runs.
    pub fn approve(mut self) -> Self {
        self.approve = true;
        self
    }

    /// Replaces the hints of the kind.
    pub fn hints(mut self, hints: Hints) -> Self {
        self.hints = hints;
        self
    }

    /// May destroy something.
    pub fn destructive(mut self) -> Self {
        self.hints.destructive = true;
        self
    }

    /// Repeating it changes nothing more.
    pub fn idempotent(mut self) -> Self {
        self.hints.idempotent = true;
        self
    }

    /// Can continue after a cut: `item_field` of the last item goes into
    /// `input_field`.
    pub fn resumable(mut self, item_field: &str, input_field: &str) -> Self {
        self.resume = Some(Resume {
            item_field: item_field.into(),
            input_field: input_field.into(),
        });
        self
    }

    /// The reply is a secret: never stored, logged or replayed.
    pub fn secret_output(mut self) -> Self {
        self.secret_output = true;
        self
    }

    /// The input holds a secret: no hash of it is kept for a call with an
    /// idempotency key, which is taken and has no effect. Repeating such a call
    /// must do no harm.
    pub fn secret_input(mut self) -> Self {
        self.secret_input = true;
        self
    }

    /// Declares a domain error.
    pub fn error(mut self, error: ErrorSpec) -> Self {
        self.errors.push(error);
        self
    }

    /// An input and what may come back: documentation, checked by tests.
    pub fn example(mut self, input: Value, output: Value) -> Self {
        self.examples.push(Example { input, output });
        self
    }

    /// Most time a call may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = Some(timeout);
        self
    }

    /// Most bytes of input, up to 16 MiB.
    pub fn input_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.input_bytes_max = Some(bytes);
        self
    }

    /// Most calls of one caller at a time.
    pub fn in_flight_max(mut self, calls: usize) -> Self {
        self.limits.in_flight_max = Some(calls);
        self
    }

    /// Most calls of all callers at a time.
    pub fn in_flight_all_max(mut self, calls: usize) -> Self {
        self.limits.in_flight_all_max = Some(calls);
        self
    }

    /// How often one caller may call it: so many at once, then so many a
    /// second.
    pub fn rate(mut self, burst: u32, per_second: u32) -> Self {
        self.limits.rate = Some(CallRate { burst, per_second });
        self
    }

    /// Should not be used any more, and why.
    pub fn deprecated(mut self, why: &str) -> Self {
        self.deprecated = Some(why.into());
        self
    }

    /// Uses a hand-written schema for the input.
    pub fn input_schema(mut self, schema: Schema) -> Self {
        self.input = Some(schema);
        self
    }

    /// Uses a hand-written schema for the output.
    pub fn output_schema(mut self, schema: Schema) -> Self {
        self.output = Some(schema);
        self
    }

    /// Lets the handler call other operations: under this label with these
    /// scopes and resources, and only those that `reaches` adds.
    pub fn authority(mut self, label: &str, scopes: &[&str], resources: &[&str]) -> Self {
        let Ok(id) = PeerId::parse(label) else {
            self.problems
                .push(format!("authority `{label}` is not a slug"));
            return self;
        };
        let mut identity = Identity::empty(id);
        for text in scopes {
            match Scope::parse(text) {
                Ok(scope) => identity.scopes.insert(scope),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        for text in resources {
            match crate::role::GrantTarget::parse(text) {
                Ok(crate::role::GrantTarget::Resource(grant)) => {
                    identity.resources.allow.push(grant)
                }
                Ok(crate::role::GrantTarget::Deny(grant)) => identity.resources.deny.push(grant),
                Ok(_) => self.problems.push(format!("`{text}` is no resource")),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        self.authority = Some(Authority {
            identity: Arc::new(identity),
            reach: Reach::default(),
        });
        self
    }

    /// Lets the handler name these operations of this node.
    pub fn reaches(self, pattern: &str) -> Self {
        self.reaches_rule(pattern, None)
    }

    /// Lets the handler name these operations of one peer.
    pub fn reaches_on(self, peer: &str, pattern: &str) -> Self {
        self.reaches_rule(pattern, Some(peer))
    }

    fn reaches_rule(mut self, pattern: &str, peer: Option<&str>) -> Self {
        let operations = match OperationPattern::parse(pattern) {
            Ok(operations) => operations,
            Err(error) => {
                self.problems.push(error.to_string());
                return self;
            }
        };
        let peer = match peer.map(PeerId::parse).transpose() {
            Ok(peer) => peer,
            Err(error) => {
                self.problems.push(error.to_string());
                return self;
            }
        };
        match &mut self.authority {
            Some(authority) => {
                // Reaching a peer takes the grant that a hub would ask for too.
                if let Some(peer) = &peer
                    && let Ok(grant) =
                        ResourceGrant::parse(ResourceKind::Peer, peer.as_str(), &[pattern])
                {
                    Arc::make_mut(&mut authority.identity)
                        .resources
                        .allow
                        .push(grant);
                }
                authority.reach.0.push(ReachRule { operations, peer });
            }
            None => self
                .problems
                .push("`reaches` follows an `authority`".into()),
        }
        self
    }

    /// Hands an outbound secret, or another thing, to this operation alone.
    pub fn capability<T: std::any::Any + Send + Sync>(mut self, capability: T) -> Self {
        self.capabilities = self.capabilities.with(capability);
        self
    }

    /// Needs the secret that the node keeps under this provider and account;
    /// see [`CredentialName`]. It is handed to this operation alone, which takes
    /// it with [`Context::credential`]. As long as it is missing, or the vault is
    /// locked, calls end with `UNAVAILABLE`, which says so.
    pub fn credential(mut self, provider: &str, account: &str) -> Self {
        match CredentialName::new(provider, account) {
            Ok(name) => self.credentials.push(name),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Answers once.
    pub fn handler<I, O, F, R>(self, run: F) -> Registration
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + 'static,
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, CallError>> + Send + 'static,
    {
        let handler = Handler::Unary(Arc::new(move |cx, input| match typed::<I>(input) {
            Ok(input) => {
                let reply = run(cx, input);
                Box::pin(async move { Output::of(&reply.await?) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }));
        self.finish(handler, Schema::input_of::<I>, Schema::output_of::<O>)
    }

    /// Answers with items: the stream that the handler returns.
    pub fn stream<I, O, F, R, S>(self, run: F) -> Registration
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + 'static,
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, CallError>> + Send + 'static,
        S: Stream<Item = Result<O, CallError>> + Send + 'static,
    {
        let handler = Handler::Stream(Arc::new(move |cx, input| match typed::<I>(input) {
            Ok(input) => {
                let items = run(cx, input);
                Box::pin(async move {
                    let items: ItemStream = items
                        .await?
                        .map_ok(|item| Output::of(&item))
                        .map(|item| item.and_then(|output| output))
                        .boxed();
                    Ok(items)
                })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }));
        self.finish(handler, Schema::input_of::<I>, Schema::output_of::<O>)
    }

    /// Opens a channel. `A` is the opening reply that the handler passes to
    /// [`ChannelOpening::accept`]; what it returns is the channel's result.
    pub fn channel<I, A, O, F, R>(self, run: F) -> Registration
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        A: JsonSchema,
        O: Serialize + 'static,
        F: Fn(Context, I, ChannelOpening) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, CallError>> + Send + 'static,
    {
        let handler = Handler::Channel(Arc::new(move |cx, input, opening| {
            match typed::<I>(input) {
                Ok(input) => {
                    let result = run(cx, input, opening);
                    Box::pin(async move { Output::of(&result.await?) })
                }
                Err(error) => Box::pin(std::future::ready(Err(error))),
            }
        }));
        self.finish(handler, Schema::input_of::<I>, Schema::output_of::<A>)
    }

    /// Uses a handler that deals in JSON, with hand-written schemas.
    pub fn raw(self, handler: Handler) -> Registration {
        self.finish(handler, Schema::any, Schema::any)
    }

    fn finish(
        self,
        handler: Handler,
        input: impl FnOnce() -> Schema,
        output: impl FnOnce() -> Schema,
    ) -> Registration {
        let mut problems = self.problems;
        if !handler.fits(self.kind) {
            problems.push(format!(
                "is a {}, which this handler cannot answer",
                self.kind
            ));
        }
        let spec = match OperationName::parse(&self.name) {
            Err(error) => {
                problems.push(error.to_string());
                None
            }
            Ok(name) => Some(OperationSpec {
                access: self
                    .access
                    .unwrap_or_else(|| Access::Rule(AccessControl::scope(name.default_scope()))),
                name,
                kind: self.kind,
                visibility: self.visibility,
                summary: self.summary,
                description: self.description,
                input: self.input.unwrap_or_else(input),
                output: self.output.unwrap_or_else(output),
                errors: self.errors,
                approve: self.approve,
                hints: self.hints,
                resume: self.resume,
                secret_output: self.secret_output,
                examples: self.examples,
                limits: self.limits,
                deprecated: self.deprecated,
            }),
        };
        let registration = Registration {
            name: self.name,
            spec,
            handler,
            authority: self.authority,
            capabilities: self.capabilities,
            credentials: Vec::new(),
            secret_input: self.secret_input,
            imported: false,
            foreign_name: None,
            problems,
        };
        self.credentials
            .into_iter()
            .fold(registration, Registration::with_credential)
    }
}

fn typed<I: DeserializeOwned>(input: Input) -> Result<I, CallError> {
    // Text that the door hands on is JSON that fits the schema. Where the type
    // takes less than the value would give it, such as a name that comes twice,
    // the value decides.
    if let Input::Json(text) = &input
        && let Ok(read) = serde_json::from_slice(text)
    {
        return Ok(read);
    }
    input.parse().map_err(|error| match error.protocol_code() {
        Some(ErrorCode::InvalidInput) => error,
        _ => CallError::invalid_field("", error.message),
    })
}
