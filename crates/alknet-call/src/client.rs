//! One client for operations here and at the other end of a connection.

use crate::{request::Request, session::Session};
use alknet_core::{
    Call, CallError, Caller, ChannelCall, Dispatcher, ErrorCode, Input, Interaction, Limits,
    OperationName, Output, Reply, Route, Subscription,
};
use futures::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Clone)]
enum Way {
    Local { door: Dispatcher, caller: Caller },
    Over(Arc<Session>),
}

#[derive(Clone, Debug, Default)]
struct Options {
    route: Route,
    timeout: Option<Duration>,
    idempotency_key: Option<String>,
    interaction: Interaction,
}

/// Calls operations: in this process without serialising anything, or over a
/// [`Session`]. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    way: Way,
    options: Arc<Options>,
}

impl Client {
    /// Calls operations of this process as `caller`.
    #[must_use]
    pub fn local(door: Dispatcher, caller: Caller) -> Self {
        Self {
            way: Way::Local { door, caller },
            options: Arc::default(),
        }
    }

    /// Calls operations at the other end of a connection.
    #[must_use]
    pub fn over(session: Arc<Session>) -> Self {
        Self {
            way: Way::Over(session),
            options: Arc::default(),
        }
    }

    /// The connection, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<&Arc<Session>> {
        match &self.way {
            Way::Local { .. } => None,
            Way::Over(session) => Some(session),
        }
    }

    /// The same, sent on through these peers.
    #[must_use]
    pub fn on(&self, route: Route) -> Self {
        self.with(|options| options.route = route)
    }

    /// The same, with a budget for each call.
    #[must_use]
    pub fn timeout(&self, timeout: Duration) -> Self {
        self.with(|options| options.timeout = Some(timeout))
    }

    /// The same; a mutation happens at most once, however often it is called.
    #[must_use]
    pub fn idempotency_key(&self, key: impl Into<String>) -> Self {
        self.with(|options| options.idempotency_key = Some(key.into()))
    }

    /// The same; progress and questions go to `interaction`.
    #[must_use]
    pub fn interaction(&self, interaction: Interaction) -> Self {
        self.with(|options| options.interaction = interaction)
    }

    fn with(&self, change: impl FnOnce(&mut Options)) -> Self {
        let mut client = self.clone();
        change(Arc::make_mut(&mut client.options));
        client
    }

    /// Calls a query or a mutation.
    ///
    /// # Errors
    ///
    /// What the operation answers; see [`Dispatcher::call`] and
    /// [`Session::call`].
    pub async fn call<I: Serialize + ?Sized, O: DeserializeOwned>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<O, CallError> {
        self.call_output(operation, self.input(input)?)
            .await?
            .parse()
    }

    /// Calls a query or a mutation with JSON.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn call_json(&self, operation: &str, input: &Value) -> Result<Value, CallError> {
        self.call_output(operation, self.input(input)?)
            .await?
            .into_value()
    }

    /// Calls a query or a mutation; neither side is parsed more than needed.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn call_output(&self, operation: &str, input: Input) -> Result<Output, CallError> {
        let name = name(operation)?;
        match &self.way {
            Way::Local { door, caller } => door
                .call(self.local_call(caller, name, input))
                .await
                .map(Reply::into_output),
            Way::Over(session) => session.call(self.request(name, input)).await,
        }
    }

    /// Subscribes.
    ///
    /// # Errors
    ///
    /// As [`Client::call`], before the first item; later errors are the last
    /// item.
    pub async fn subscribe<I: Serialize + ?Sized, O: DeserializeOwned>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<Items<O>, CallError> {
        let items = self.subscribe_output(operation, self.input(input)?).await?;
        Ok(Items {
            items,
            item: PhantomData,
        })
    }

    /// Subscribes to JSON.
    ///
    /// # Errors
    ///
    /// As [`Client::subscribe`].
    pub async fn subscribe_output(
        &self,
        operation: &str,
        input: Input,
    ) -> Result<Subscription, CallError> {
        let name = name(operation)?;
        match &self.way {
            Way::Local { door, caller } => {
                door.subscribe(self.local_call(caller, name, input)).await
            }
            Way::Over(session) => session.subscribe(self.request(name, input)).await,
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// As [`Client::call`], until the channel is open; later errors are its
    /// result.
    pub async fn open<I: Serialize + ?Sized>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<ChannelCall, CallError> {
        let name = name(operation)?;
        let input = self.input(input)?;
        match &self.way {
            Way::Local { door, caller } => door.open(self.local_call(caller, name, input)).await,
            Way::Over(session) => session.open(self.request(name, input)).await,
        }
    }

    /// Calls many queries and mutations, at most 16 at a time and 1,024 in
    /// all; answers come as they finish, with the position of their call.
    pub fn batch(
        &self,
        calls: Vec<(String, Input)>,
    ) -> impl Stream<Item = (usize, Result<Output, CallError>)> + Send + 'static {
        let limits = match &self.way {
            Way::Local { door, .. } => door.limits().clone(),
            Way::Over(_) => Limits::default(),
        };
        let over = calls.len() > limits.batch_calls_max;
        let client = self.clone();
        futures::stream::iter(calls.into_iter().enumerate())
            .map(move |(at, (operation, input))| {
                let client = client.clone();
                async move {
                    if over {
                        let most = limits.batch_calls_max;
                        let message = format!("a batch has at most {most} calls");
                        return (at, Err(CallError::new(ErrorCode::TooLarge, message)));
                    }
                    (at, client.call_output(&operation, input).await)
                }
            })
            .buffer_unordered(limits.batch_in_flight_max)
    }

    /// The input as it is needed: a value here, text on the wire.
    fn input<I: Serialize + ?Sized>(&self, input: &I) -> Result<Input, CallError> {
        let unfit = |error: serde_json::Error| CallError::invalid_field("", error.to_string());
        match &self.way {
            Way::Local { .. } => serde_json::to_value(input).map(Input::Value).map_err(unfit),
            Way::Over(_) => serde_json::to_vec(input)
                .map(|text| Input::Json(text.into()))
                .map_err(unfit),
        }
    }

    fn local_call(&self, caller: &Caller, name: OperationName, input: Input) -> Call {
        let mut call = Call::named(name, caller.clone());
        let options = &self.options;
        call.input = input;
        call.route.clone_from(&options.route);
        call.deadline = options
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        call.idempotency_key.clone_from(&options.idempotency_key);
        call.interaction = options.interaction.clone();
        call
    }

    fn request(&self, name: OperationName, input: Input) -> Request {
        let options = &self.options;
        Request {
            budget: options.timeout,
            route: options.route.clone(),
            idempotency_key: options.idempotency_key.clone(),
            interaction: options.interaction.clone(),
            ..Request::new(name, input.into_bytes())
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way: &dyn fmt::Debug = match &self.way {
            Way::Local { caller, .. } => caller.id(),
            Way::Over(session) => session,
        };
        f.debug_struct("Client")
            .field("way", way)
            .finish_non_exhaustive()
    }
}

fn name(operation: &str) -> Result<OperationName, CallError> {
    OperationName::parse(operation).map_err(|_| CallError::not_found(operation))
}

/// Items of a subscription, read as `O`. What does not fit ends it.
#[derive(Debug)]
pub struct Items<O> {
    items: Subscription,
    item: PhantomData<fn() -> O>,
}

impl<O> Items<O> {
    /// The items as JSON.
    #[must_use]
    pub fn into_outputs(self) -> Subscription {
        self.items
    }
}

impl<O: DeserializeOwned> Stream for Items<O> {
    type Item = Result<O, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items
            .poll_next_unpin(cx)
            .map(|item| item.map(|item| item.and_then(Output::parse)))
    }
}
