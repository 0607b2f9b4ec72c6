//! Connects a channel with the standard streams.

use crate::{
    commands::call::Failed,
    failure::Failure,
    node_access::{CallError, ChannelCall, ErrorCode},
    signals,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::SignalKind,
    sync::mpsc,
    task::JoinHandle,
};

/// Bytes read from standard input at a time.
const READ_BYTES: usize = 64 * 1024;

/// How a channel ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The result of the operation.
    pub(crate) result: Value,
    /// Ctrl-C was pressed twice: there is no result.
    pub(crate) is_cancelled: bool,
}

/// Signals passed on as control messages instead of ending us.
#[derive(Debug)]
pub(crate) struct Forwarded {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Forwarded {
    /// Starts listening; before the channel opens, so that none is missed.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signals::listen(SignalKind::interrupt())?,
            terminate: signals::listen(SignalKind::terminate())?,
            hang_up: signals::listen(SignalKind::hangup())?,
        })
    }

    /// The next one, by the name that control messages use.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "INT",
            _ = self.terminate.recv() => "TERM",
            _ = self.hang_up.recv() => "HUP",
        }
    }
}

/// Standard input to the channel, the channel to standard output and error,
/// until it ends. Dropping the future cancels it.
pub(crate) async fn connect(
    call: ChannelCall,
    forwarded: Option<Forwarded>,
) -> Result<Ended, Failed> {
    let ChannelCall { channel, done, .. } = call;
    let _sending = Sending(tokio::spawn(send_stdin(channel.tx)));
    let control = channel.control_tx;
    let passing_on = async move {
        match forwarded {
            Some(forwarded) => pass_on(forwarded, control).await,
            // The sender is kept: dropping it may mean something to the other end.
            None => {
                let _control = control;
                std::future::pending().await
            }
        }
    };
    let receiving = async {
        receive(channel.rx).await?;
        let output = done.await?;
        Ok::<Value, Failed>(output.into_value()?)
    };
    tokio::select! {
        result = receiving => Ok(Ended { result: result?, is_cancelled: false }),
        () = passing_on => Ok(Ended { result: Value::Null, is_cancelled: true }),
    }
}

struct Sending(JoinHandle<()>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send_stdin(mut tx: crate::node_access::ByteSender) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                if tx.write_all(&buffer[..len]).await.is_err() {
                    // The other end reads no more, which is its right; its
                    // result still comes.
                    return;
                }
            }
        }
    }
    tx.end();
    // Kept until the channel ends: dropped, it might look cut.
    std::future::pending().await
}

/// Writes what comes to standard output and error, until it ends.
pub(crate) async fn receive(mut rx: crate::node_access::ByteReceiver) -> Result<(), Failed> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    // A cut shows in the result, which says why.
    while let Ok(Some(chunk)) = rx.recv().await {
        match chunk.aux {
            true => write(&mut stderr, &chunk.bytes).await?,
            false => write(&mut stdout, &chunk.bytes).await?,
        }
    }
    Ok(())
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failed> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    Ok(written
        .await
        .map_err(|error: std::io::Error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::reader_left(),
            _ => Failure::local(format!("failed to write the output: {error}")),
        })?)
}

/// Passes signals on; returns at the second Ctrl-C.
async fn pass_on(mut forwarded: Forwarded, control: mpsc::Sender<Value>) {
    let mut interrupts = 0;
    loop {
        let signal = forwarded.next().await;
        interrupts += u32::from(signal == "INT");
        if interrupts >= 2 {
            return;
        }
        // Full or closed: the channel ends, or a second Ctrl-C ends it.
        let _ = control.try_send(json!({ "signal": signal }));
    }
}

/// The number of a signal by its name of POSIX.1-2024 without `SIG`, or by its
/// number written out.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    use rustix::process::Signal;
    let known = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ILL", Signal::ILL),
        ("TRAP", Signal::TRAP),
        ("ABRT", Signal::ABORT),
        ("BUS", Signal::BUS),
        ("FPE", Signal::FPE),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("TTIN", Signal::TTIN),
        ("TTOU", Signal::TTOU),
        ("URG", Signal::URG),
        ("XCPU", Signal::XCPU),
        ("XFSZ", Signal::XFSZ),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("WINCH", Signal::WINCH),
        ("IO", Signal::IO),
        ("SYS", Signal::SYS),
    ];
    let found = known
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| signal.as_raw());
    found.or_else(|| name.parse().ok())
}

/// Says that a reply makes no sense.
pub(crate) fn unexpected(what: &str) -> CallError {
    CallError::new(ErrorCode::Internal, format!("the peer answered {what}"))
}
