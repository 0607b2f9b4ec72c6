//! The callee's side of one call: its stream, what it reports and asks.

use crate::{
    credit::{Allowance, cost},
    frame::{Credit, Frame, Invoke},
    limits::{ASKS_OPEN_MAX, SIDE_BYTES_MAX},
    wire::{Party, Step, Wire, WireError},
};
use alknet_core::{CallError, ErrorCode, Interaction, InteractionEvent, Output};
use bytes::Bytes;
use serde_json::Value;
use std::{collections::HashMap, future::pending, time::Duration};
use tokio::{
    select,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Events of a call that may wait to be sent.
const EVENTS_MAX: usize = 16;

/// The side that answers.
pub(crate) struct Callee {
    wire: Wire,
    allowance: Allowance,
    frame_bytes_max: usize,
    stall: Duration,
    events: Option<mpsc::Receiver<InteractionEvent>>,
    wants_progress: bool,
    asks: HashMap<u32, oneshot::Sender<Value>>,
    asks_made: u32,
    held: Option<(u64, Frame)>,
}

impl Callee {
    /// `window` and `frame_bytes_max` are what the caller takes.
    pub(crate) fn new(wire: Wire, window: u32, frame_bytes_max: usize, stall: Duration) -> Self {
        Self {
            wire,
            allowance: Allowance::new(window),
            frame_bytes_max,
            stall,
            events: None,
            wants_progress: false,
            asks: HashMap::new(),
            asks_made: 0,
            held: None,
        }
    }

    /// The handler's way back to the caller.
    pub(crate) fn interaction(&mut self, invoke: &Invoke) -> Interaction {
        if !invoke.wants_progress && !invoke.can_answer {
            return Interaction::none();
        }
        self.wants_progress = invoke.wants_progress;
        let (to, events) = mpsc::channel(EVENTS_MAX);
        self.events = Some(events);
        Interaction::to(to, invoke.can_answer)
    }

    /// Sends an item, if credit and room allow.
    pub(crate) fn send_item(&mut self, item: &Bytes) -> bool {
        let may = self.wire.has_room() && self.allowance.spend(cost(item.len()));
        if may {
            self.wire.push(&Frame::Item(item.clone()));
        }
        may
    }

    /// Runs `work` while the caller is listened to. It comes pinned: taken by
    /// value, it would be held twice.
    pub(crate) async fn during<T>(
        &mut self,
        mut work: impl Future<Output = T> + Unpin,
    ) -> Result<T, WireError> {
        loop {
            select! {
                // Most calls are done before anything else happens.
                biased;
                done = &mut work => return Ok(done),
                frame = self.attend() => nothing_else(frame?)?,
            }
        }
    }

    /// The JSON text of an output, unless the caller could not take it.
    pub(crate) fn text(&self, output: Output) -> Result<Bytes, CallError> {
        let text = output.into_bytes();
        if text.len() <= self.frame_bytes_max {
            return Ok(text);
        }
        Err(CallError::new(
            ErrorCode::TooLarge,
            format!(
                "the output has {} bytes, the caller takes {}",
                text.len(),
                self.frame_bytes_max
            ),
        ))
    }

    /// Sends the one outcome.
    pub(crate) async fn conclude(
        &mut self,
        outcome: Result<Bytes, CallError>,
    ) -> Result<(), WireError> {
        self.send_last_events(&outcome).await?;
        let frame = match outcome {
            Ok(text) => Frame::Done(text),
            Err(error) => Frame::Error(error),
        };
        self.wire.conclude(&frame, self.stall).await
    }

    /// What was reported before the outcome goes out before it: a caller that
    /// takes nothing is waited for a while, unless its call is over anyway.
    async fn send_last_events(
        &mut self,
        outcome: &Result<Bytes, CallError>,
    ) -> Result<(), WireError> {
        let waits = !outcome.as_ref().is_err_and(ends_at_once);
        loop {
            self.send_held();
            if self.held.is_some() {
                if !waits {
                    return Ok(());
                }
                match timeout(self.stall, self.attend()).await {
                    // Whatever the caller says now comes too late.
                    Ok(frame) => drop(frame?),
                    Err(_) => return Ok(()),
                }
                continue;
            }
            match self.events.as_mut().map(mpsc::Receiver::try_recv) {
                Some(Ok(InteractionEvent::Ask { .. })) => {}
                Some(Ok(progress)) => self.hold(progress),
                _ => return Ok(()),
            }
        }
    }

    fn hold(&mut self, event: InteractionEvent) {
        let (text, answer) = match event {
            InteractionEvent::Progress(progress) if self.wants_progress => (progress, None),
            InteractionEvent::Progress(_) => return,
            InteractionEvent::Ask { question, answer } => (question, Some(answer)),
        };
        let text = Bytes::from(text.to_string());
        if text.len() > SIDE_BYTES_MAX {
            // A question that is not sent is answered by nobody, and fails.
            tracing::warn!(
                bytes = text.len(),
                "a progress report or question is too large to be sent"
            );
            return;
        }
        let cost = cost(text.len());
        let frame = match answer {
            None => Frame::Progress(text),
            Some(answer) => {
                let ask = self.asks_made;
                self.asks_made += 1;
                // A handler may have stopped waiting.
                self.asks.retain(|_, answer| !answer.is_closed());
                self.asks.insert(ask, answer);
                Frame::Ask {
                    ask,
                    question: text,
                }
            }
        };
        self.held = Some((cost, frame));
    }

    fn send_held(&mut self) {
        if let Some((cost, frame)) = &self.held
            && self.allowance.spend(*cost)
        {
            self.wire.push(frame);
            self.held = None;
        }
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Frame>, WireError> {
        match frame {
            Frame::Answer { ask, answer } => {
                if ask >= self.asks_made {
                    return Err(WireError::Unexpected("Answer without question"));
                }
                let answer = answer.map(|text| Output::Json(text).into_value());
                let answer = answer
                    .transpose()
                    .map_err(|_| WireError::Unexpected("Answer without JSON"))?;
                if let (Some(to), Some(answer)) = (self.asks.remove(&ask), answer) {
                    // A handler that stopped waiting needs no answer.
                    let _ = to.send(answer);
                }
                Ok(None)
            }
            Frame::Credit(credit) => {
                if !self.allowance.returned(credit.items) {
                    return Err(WireError::Overdrawn);
                }
                let rest = Credit { items: 0, ..credit };
                Ok((rest != Credit::default()).then_some(Frame::Credit(rest)))
            }
            other => Ok(Some(other)),
        }
    }
}

impl Party for Callee {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    async fn attend(&mut self) -> Result<Option<Frame>, WireError> {
        self.send_held();
        let may_take =
            self.held.is_none() && self.asks.len() < ASKS_OPEN_MAX && self.wire.has_room();
        let event = async {
            match &mut self.events {
                Some(events) if may_take => events.recv().await,
                _ => pending().await,
            }
        };
        select! {
            step = self.wire.step() => match step? {
                Step::Frame(frame) => self.take(frame),
                Step::Flushed | Step::Eof => Ok(None),
                Step::Stopped => Err(WireError::Reset),
            },
            event = event => {
                match event {
                    Some(event) => self.hold(event),
                    None => self.events = None,
                }
                Ok(None)
            }
        }
    }
}

/// Whether the caller has lost its right, or its time: nothing is waited for.
pub(crate) fn ends_at_once(error: &CallError) -> bool {
    [
        ErrorCode::Forbidden,
        ErrorCode::Unauthenticated,
        ErrorCode::Timeout,
        ErrorCode::Cancelled,
    ]
    .into_iter()
    .any(|code| error.is(code))
}

/// Refuses a frame that nobody is there for.
pub(crate) fn nothing_else(frame: Option<Frame>) -> Result<(), WireError> {
    match frame {
        Some(frame) => Err(WireError::unexpected(&frame)),
        None => Ok(()),
    }
}
