//! The caller's side of one call: its stream, what it hears and answers.

use crate::{
    credit::{Receipts, cost},
    frame::{Credit, Frame},
    limits::SIDE_BYTES_MAX,
    wire::{Party, Step, Wire, WireError},
};
use alknet_core::{Interaction, Output};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use std::{collections::VecDeque, future::pending};
use tokio::{select, sync::OwnedSemaphorePermit};

/// What the callee reported or asked.
#[derive(Debug)]
enum Event {
    Progress(Value),
    Ask(u32, Value),
}

/// What became of an event.
type Delivered = (u64, Option<(u32, Option<Value>)>);

/// The side that calls.
pub(crate) struct Asker {
    wire: Wire,
    receipts: Receipts,
    interaction: Interaction,
    waiting: VecDeque<(u64, Event)>,
    delivering: Option<BoxFuture<'static, Delivered>>,
    delivers_ask: bool,
}

impl Asker {
    pub(crate) fn new(wire: Wire, window: usize, interaction: Interaction) -> Self {
        Self {
            wire,
            receipts: Receipts::new(window),
            interaction,
            waiting: VecDeque::new(),
            delivering: None,
            delivers_ask: false,
        }
    }

    /// Notes an item; gives back the room it took, to be held until the item
    /// is taken.
    pub(crate) fn arrived(
        &mut self,
        item: &Bytes,
    ) -> Result<Option<OwnedSemaphorePermit>, WireError> {
        match self.receipts.arrived(cost(item.len())) {
            true => Ok(self.wire.take_held()),
            false => Err(WireError::Overdrawn),
        }
    }

    /// Notes that items were taken.
    pub(crate) fn taken(&mut self, cost: u64) {
        if let Some(items) = self.receipts.taken(cost) {
            self.wire.push(&Frame::Credit(Credit {
                items,
                ..Credit::default()
            }));
        }
    }

    /// Hands over what was reported before the outcome; a question that is
    /// still open has lost its sense.
    pub(crate) async fn deliver_rest(&mut self) {
        self.waiting
            .retain(|(_, event)| matches!(event, Event::Progress(_)));
        if self.delivers_ask {
            self.delivering = None;
        }
        loop {
            self.deliver_next();
            match &mut self.delivering {
                Some(delivering) => drop(delivering.await),
                None => return,
            }
            self.delivering = None;
        }
    }

    fn deliver_next(&mut self) {
        if self.delivering.is_some() {
            return;
        }
        let Some((cost, event)) = self.waiting.pop_front() else {
            return;
        };
        let interaction = self.interaction.clone();
        self.delivers_ask = matches!(event, Event::Ask(..));
        self.delivering = Some(Box::pin(async move {
            match event {
                Event::Progress(progress) => {
                    interaction.progress(progress).await;
                    (cost, None)
                }
                Event::Ask(ask, question) => {
                    (cost, Some((ask, interaction.ask(question).await.ok())))
                }
            }
        }));
    }

    fn delivered(&mut self, (cost, answer): Delivered) {
        self.delivering = None;
        self.taken(cost);
        let Some((ask, answer)) = answer else {
            return;
        };
        let answer = answer.map(|answer| Bytes::from(answer.to_string()));
        let answer = answer.filter(|text| text.len() <= SIDE_BYTES_MAX);
        self.wire.push(&Frame::Answer { ask, answer });
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Frame>, WireError> {
        let (text, ask) = match frame {
            Frame::Progress(text) if self.interaction.is_listening() => (text, None),
            Frame::Ask { ask, question } if self.interaction.can_answer() => (question, Some(ask)),
            other => return Ok(Some(other)),
        };
        let cost = cost(text.len());
        if !self.receipts.arrived(cost) {
            return Err(WireError::Overdrawn);
        }
        let value = Output::Json(text).into_value();
        let value = value.map_err(|_| WireError::Unexpected("Progress or Ask without JSON"))?;
        let event = match ask {
            None => Event::Progress(value),
            Some(ask) => Event::Ask(ask, value),
        };
        self.waiting.push_back((cost, event));
        Ok(None)
    }
}

impl Party for Asker {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    async fn attend(&mut self) -> Result<Option<Frame>, WireError> {
        self.deliver_next();
        let delivered = async {
            match &mut self.delivering {
                Some(delivering) => delivering.await,
                None => pending().await,
            }
        };
        select! {
            step = self.wire.step() => match step? {
                Step::Frame(frame) => self.take(frame),
                // A callee that reads no more may still have said why.
                Step::Flushed | Step::Stopped => Ok(None),
                Step::Eof => Err(WireError::Ended),
            },
            delivered = delivered => {
                self.delivered(delivered);
                Ok(None)
            }
        }
    }
}
