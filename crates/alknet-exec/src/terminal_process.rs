//! A process in a terminal of its own: what it shows, and its end.

use crate::{
    process::{Ended, LINGER, ended, has_ended},
    pty::{NewPty, Pty},
    terminal_session::Session,
};
use bytes::Bytes;
use std::{io, process::ExitStatus, sync::Arc};
use tokio::{
    signal::unix::Signal as SignalStream,
    sync::oneshot,
    time::{Duration, Instant, sleep, sleep_until},
};

/// Most bytes that are read at a time.
const READ_BYTES: usize = 32 * 1024;

/// How long to wait before looking at a terminal that was hung up.
const HUNG_UP_WAIT: Duration = Duration::from_millis(25);

/// A session in a terminal. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct Terminal {
    session: Arc<Session>,
    pty: Arc<Pty>,
    path: String,
    /// Announces that some child of this program has ended.
    children: SignalStream,
    stage: Stage,
    buffer: Box<[u8]>,
}

/// How far its life has come.
#[derive(Debug)]
enum Stage {
    Running,
    /// The leader has ended; the others may still write for a moment.
    Lingering {
        until: Instant,
        /// Nobody has the terminal open any more.
        is_closed: bool,
    },
    /// The others are being ended.
    Ending {
        status: oneshot::Receiver<io::Result<ExitStatus>>,
        is_closed: bool,
    },
    /// Everybody has; what they wrote is read.
    Over(io::Result<ExitStatus>),
}

impl Stage {
    fn over(status: Option<io::Result<ExitStatus>>) -> Self {
        Self::Over(status.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into())))
    }
}

impl Terminal {
    /// `children` was subscribed to before the leader was started.
    pub(crate) fn new(session: Session, pty: NewPty, children: SignalStream) -> io::Result<Self> {
        Ok(Self {
            session: Arc::new(session),
            path: pty.path.clone(),
            pty: Arc::new(Pty::new(pty)?),
            children,
            stage: Stage::Running,
            buffer: vec![0; READ_BYTES].into(),
        })
    }

    /// For signals, from beside whoever reads the output.
    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.clone()
    }

    /// For the keyboard.
    pub(crate) fn pty(&self) -> Arc<Pty> {
        self.pty.clone()
    }

    /// The device, such as `/dev/pts/3`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The next output, until the leader has ended, and with it the whole
    /// session. Cancel safe.
    pub(crate) async fn next_output(&mut self) -> Option<Bytes> {
        loop {
            // Before reading: somebody may write without end.
            if let Some(rest) = self.advance()
                && !rest.is_empty()
            {
                return Some(rest);
            }
            let bytes = match &mut self.stage {
                Stage::Running => tokio::select! {
                    biased;
                    bytes = self.pty.read(&mut self.buffer) => bytes,
                    () = ended(&mut self.children, self.session.id()) => continue,
                },
                Stage::Lingering { until, is_closed } => tokio::select! {
                    biased;
                    bytes = self.pty.read(&mut self.buffer) => {
                        *is_closed = bytes.is_empty();
                        bytes
                    }
                    () = sleep_until(*until) => continue,
                },
                Stage::Ending { status, is_closed } => tokio::select! {
                    biased;
                    bytes = self.pty.read(&mut self.buffer), if !*is_closed => {
                        *is_closed = bytes.is_empty();
                        bytes
                    }
                    ended = status => {
                        self.stage = Stage::over(ended.ok());
                        self.pty.read_rest()
                    }
                },
                Stage::Over(_) => return None,
            };
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if matches!(self.stage, Stage::Running) {
                // Somebody hung the terminal up, and may open it again, as
                // `login(1)` does.
                sleep(HUNG_UP_WAIT).await;
            }
        }
    }

    /// Goes on to the next stage if its time has come; what is left to read
    /// when everybody has ended.
    fn advance(&mut self) -> Option<Bytes> {
        match &mut self.stage {
            Stage::Running if has_ended(self.session.id()) => {
                self.pty.close_slave();
                self.stage = Stage::Lingering {
                    until: Instant::now() + LINGER,
                    is_closed: false,
                };
                None
            }
            Stage::Lingering { until, is_closed } if *is_closed || *until <= Instant::now() => {
                let is_closed = *is_closed;
                self.stage = match self.session.end() {
                    Some(status) => Stage::Ending { status, is_closed },
                    None => Stage::over(None),
                };
                None
            }
            Stage::Ending { status, .. } => {
                let status = status.try_recv().ok()?;
                self.stage = Stage::over(Some(status));
                Some(self.pty.read_rest())
            }
            _ => None,
        }
    }

    /// How the leader ended, once there is no more output.
    pub(crate) fn ended(mut self) -> io::Result<Ended> {
        // Something that is dropped cannot be taken apart.
        match std::mem::replace(&mut self.stage, Stage::over(None)) {
            Stage::Over(status) => status.map(Ended::of),
            _ => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Not left to the last owner of the session.
        self.session.end();
    }
}
