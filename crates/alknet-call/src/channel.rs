//! An open channel on a stream: both sides do the same.

use crate::{
    frame::{Credit, Frame},
    limits::{CONTROLS_IN_FLIGHT_MAX, SIDE_BYTES_MAX},
    wire::{Party, Wire, WireError},
};
use alknet_core::{
    ByteReceiver, ByteSender, CHUNK_COST_MIN, ChannelEnd, Chunk, Control, Output, PipeClosed,
};
use bytes::Bytes;
use std::{collections::VecDeque, future::pending};
use tokio::{
    select,
    sync::mpsc::{self, error::TrySendError},
};

/// Control messages taken before their credit is returned.
const CONTROLS_WORTH: u32 = CONTROLS_IN_FLIGHT_MAX / 4;

/// Windows of a channel: what may be under way in each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelWindows {
    /// Bytes that the other side takes.
    pub(crate) send_bytes: usize,
    /// Bytes of a chunk that the other side takes.
    pub(crate) send_chunk_bytes: usize,
    /// Bytes that this side takes.
    pub(crate) recv_bytes: usize,
}

/// Moves bytes and control messages between a stream and the pipes of an
/// application, never more than the credit of either.
#[derive(Debug)]
pub(crate) struct ChannelIo {
    incoming: Incoming,
    outgoing: Outgoing,
}

/// From the stream to the application.
#[derive(Debug)]
struct Incoming {
    bytes: Option<ByteSender>,
    has_ended: bool,
    window: u64,
    under_way: u64,
    controls: Option<mpsc::Sender<Control>>,
    controls_waiting: VecDeque<Control>,
    controls_under_way: u32,
}

/// From the application to the stream.
#[derive(Debug)]
struct Outgoing {
    bytes: Option<ByteReceiver>,
    chunk: Option<Chunk>,
    chunk_bytes_max: usize,
    credit: u64,
    window: u64,
    controls: Option<mpsc::Receiver<Control>>,
    controls_credit: u32,
}

/// What a channel waits for.
enum Event {
    Frame(Option<Frame>),
    Released(Result<u32, PipeClosed>),
    ControlRoom(bool),
    Chunk(Result<Option<Chunk>, PipeClosed>),
    Control(Option<Control>),
}

impl ChannelIo {
    pub(crate) fn new(channel: ChannelEnd, windows: ChannelWindows) -> Self {
        Self {
            incoming: Incoming {
                bytes: Some(channel.tx),
                has_ended: false,
                window: windows.recv_bytes as u64,
                under_way: 0,
                controls: Some(channel.control_tx),
                controls_waiting: VecDeque::new(),
                controls_under_way: 0,
            },
            outgoing: Outgoing {
                bytes: Some(channel.rx),
                chunk: None,
                chunk_bytes_max: windows.send_chunk_bytes,
                credit: windows.send_bytes as u64,
                window: windows.send_bytes as u64,
                controls: Some(channel.control_rx),
                controls_credit: CONTROLS_IN_FLIGHT_MAX,
            },
        }
    }

    /// Waits until something happens and deals with it; hands on what belongs
    /// to the call and not to the channel. Cancel safe.
    pub(crate) async fn turn<P: Party>(
        &mut self,
        party: &mut P,
    ) -> Result<Option<Frame>, WireError> {
        let Self { incoming, outgoing } = self;
        outgoing.send_chunk(party.wire());
        let has_room = party.wire().has_room();
        let has_control = !incoming.controls_waiting.is_empty();
        let may_control = has_room && outgoing.controls_credit > 0;
        let may_read = has_room && outgoing.chunk.is_none();
        let released = async {
            match &mut incoming.bytes {
                Some(bytes) => bytes.released().await,
                None => pending().await,
            }
        };
        let control_room = async {
            match &incoming.controls {
                Some(controls) if has_control => controls.reserve().await.is_ok(),
                _ => pending().await,
            }
        };
        let chunk = async {
            match &mut outgoing.bytes {
                Some(bytes) if may_read => bytes.recv().await,
                _ => pending().await,
            }
        };
        let control = async {
            match &mut outgoing.controls {
                Some(controls) if may_control => controls.recv().await,
                _ => pending().await,
            }
        };
        let event = select! {
            frame = party.attend() => Event::Frame(frame?),
            released = released => Event::Released(released),
            is_open = control_room => Event::ControlRoom(is_open),
            chunk = chunk => Event::Chunk(chunk),
            control = control => Event::Control(control),
        };
        let wire = party.wire();
        match event {
            Event::Frame(None) => {}
            Event::Frame(Some(frame)) => return self.take(frame, wire),
            Event::Released(released) => self.incoming.released(released, wire),
            Event::ControlRoom(is_open) => self.incoming.hand_over_control(is_open, wire),
            Event::Chunk(chunk) => self.outgoing.read(chunk, wire),
            Event::Control(control) => self.outgoing.control(control, wire),
        }
        Ok(None)
    }

    /// Whether everything that the application had to send has been queued.
    pub(crate) fn is_drained(&self) -> bool {
        self.outgoing.bytes.is_none() && self.outgoing.chunk.is_none()
    }

    /// Queues the control messages that are left, as far as credit goes.
    pub(crate) fn send_last_controls(&mut self, wire: &mut Wire) {
        while self.outgoing.controls_credit > 0
            && let Some(controls) = &mut self.outgoing.controls
            && let Ok(control) = controls.try_recv()
        {
            self.outgoing.control(Some(control), wire);
        }
    }

    /// Hands over the control messages that are left, as far as there is room.
    pub(crate) fn take_last_controls(&mut self) {
        let Some(controls) = &self.incoming.controls else {
            return;
        };
        for control in self.incoming.controls_waiting.drain(..) {
            if controls.try_send(control).is_err() {
                return;
            }
        }
    }

    fn take(&mut self, frame: Frame, wire: &mut Wire) -> Result<Option<Frame>, WireError> {
        let incoming = &mut self.incoming;
        match frame {
            Frame::Chunk { .. } | Frame::End { .. } if incoming.has_ended => {
                return Err(WireError::unexpected(&frame));
            }
            Frame::Chunk { aux, bytes } => incoming.chunk(Chunk { aux, bytes }, wire)?,
            Frame::End { cut } => {
                incoming.has_ended = true;
                if let Some(mut bytes) = incoming.bytes.take()
                    && !cut
                {
                    bytes.end();
                }
            }
            Frame::Control(text) => incoming.control(text, wire)?,
            Frame::Credit(credit) => self.outgoing.credited(credit)?,
            other => return Ok(Some(other)),
        }
        Ok(None)
    }
}

impl Incoming {
    fn chunk(&mut self, chunk: Chunk, wire: &mut Wire) -> Result<(), WireError> {
        self.under_way += Chunk::cost(chunk.bytes.len()) as u64;
        if self.under_way > self.window {
            return Err(WireError::Overdrawn);
        }
        if let Some(bytes) = &mut self.bytes
            && bytes.push_credited(chunk).is_err()
        {
            self.reader_left(wire);
        }
        Ok(())
    }

    fn released(&mut self, released: Result<u32, PipeClosed>, wire: &mut Wire) {
        match released {
            Ok(bytes) => {
                self.under_way -= u64::from(bytes);
                wire.push(&Frame::Credit(Credit {
                    bytes,
                    ..Credit::default()
                }));
            }
            Err(PipeClosed) => self.reader_left(wire),
        }
    }

    fn reader_left(&mut self, wire: &mut Wire) {
        if self.bytes.take().is_some() {
            wire.push(&Frame::Credit(Credit {
                stop: true,
                ..Credit::default()
            }));
        }
    }

    fn control(&mut self, text: Bytes, wire: &mut Wire) -> Result<(), WireError> {
        self.controls_under_way += 1;
        if self.controls_under_way > CONTROLS_IN_FLIGHT_MAX {
            return Err(WireError::Overdrawn);
        }
        let control = Output::Json(text).into_value();
        let control = control.map_err(|_| WireError::Unexpected("Control without JSON"))?;
        if self.controls.is_some() {
            self.controls_waiting.push_back(control);
        } else {
            self.return_controls(wire);
        }
        Ok(())
    }

    /// Hands one over; whoever dropped its end wants none.
    fn hand_over_control(&mut self, is_open: bool, wire: &mut Wire) {
        match (&self.controls, self.controls_waiting.pop_front()) {
            (Some(controls), Some(control)) if is_open => {
                if let Err(TrySendError::Full(control)) = controls.try_send(control) {
                    self.controls_waiting.push_front(control);
                }
            }
            _ => {
                self.controls_waiting.clear();
                self.controls = None;
            }
        }
        self.return_controls(wire);
    }

    /// Notes that one was taken, or nobody wants them.
    fn return_controls(&mut self, wire: &mut Wire) {
        let waiting = u32::try_from(self.controls_waiting.len()).unwrap_or(u32::MAX);
        let taken = self.controls_under_way - waiting;
        if taken < CONTROLS_WORTH {
            return;
        }
        self.controls_under_way = waiting;
        wire.push(&Frame::Credit(Credit {
            controls: u16::try_from(taken).unwrap_or(u16::MAX),
            ..Credit::default()
        }));
    }
}

impl Outgoing {
    /// Queues as much of the chunk at hand as credit and room allow.
    fn send_chunk(&mut self, wire: &mut Wire) {
        while self.credit >= CHUNK_COST_MIN as u64
            && wire.has_room()
            && let Some(chunk) = &mut self.chunk
        {
            let credit = usize::try_from(self.credit).unwrap_or(usize::MAX);
            let most = chunk.bytes.len().min(self.chunk_bytes_max).min(credit);
            let bytes = chunk.bytes.split_to(most);
            let aux = chunk.aux;
            if chunk.bytes.is_empty() {
                self.chunk = None;
            }
            self.credit -= Chunk::cost(most) as u64;
            wire.push(&Frame::Chunk { aux, bytes });
        }
    }

    fn read(&mut self, chunk: Result<Option<Chunk>, PipeClosed>, wire: &mut Wire) {
        match chunk {
            Ok(Some(chunk)) => {
                self.chunk = Some(chunk);
                self.send_chunk(wire);
            }
            // A cut is not an end.
            ended => {
                self.bytes = None;
                wire.push(&Frame::End {
                    cut: ended.is_err(),
                });
            }
        }
    }

    fn control(&mut self, control: Option<Control>, wire: &mut Wire) {
        let Some(control) = control else {
            self.controls = None;
            return;
        };
        let text = control.to_string();
        if text.len() > SIDE_BYTES_MAX {
            tracing::warn!(
                bytes = text.len(),
                "a control message is too large to be sent"
            );
            // Whoever sends more of them learns it.
            self.controls = None;
            return;
        }
        self.controls_credit -= 1;
        wire.push(&Frame::Control(text.into()));
    }

    fn credited(&mut self, credit: Credit) -> Result<(), WireError> {
        self.credit += u64::from(credit.bytes);
        self.controls_credit += u32::from(credit.controls);
        if self.credit > self.window || self.controls_credit > CONTROLS_IN_FLIGHT_MAX {
            return Err(WireError::Overdrawn);
        }
        if credit.stop {
            self.bytes = None;
            self.chunk = None;
        }
        Ok(())
    }
}
