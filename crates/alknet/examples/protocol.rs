//! A protocol of one's own on its own ALPN: each stream carries one line. It
//! has no powers of its own: what a caller may do is what it was granted, and
//! the door decides.
//!
//! `cargo run -p alknet --example protocol -- ./data-a ./data-b`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{
    Call, CallError, Caller, Dispatcher, ErrorCode, Node, Operation, Permit, Registration,
    ResourceKind, Surface,
    transport::{Admitted, BiStream, Connection, ProtocolHandler, RecvHalf, SendHalf},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    task::JoinSet,
    time::timeout,
};

/// The protocol's name in the TLS handshake, with its version.
pub const ALPN: &[u8] = b"example/line/1";
/// Longest line, in bytes.
pub const LINE_BYTES_MAX: u64 = 4096;
/// Time for a line to arrive.
pub const LINE_WAIT: Duration = Duration::from_secs(10);
/// Streams of a connection that are served at a time; others wait.
const STREAMS_MAX: usize = 16;
/// In the audit log: how the call came.
const LINE: Surface = Surface::named("line");
/// With which a stream without a proper line is reset.
const NO_LINE: u32 = 1;
/// With which a connection is closed when the node stops.
const STOPPING: u32 = 2;

/// What the node keeps, and what its operations and its protocol give out.
pub type Texts = Arc<BTreeMap<String, String>>;

/// Names a text.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadInput {
    /// Which text, such as `news/today`.
    text: String,
}

/// The operation: what may be done, and by whom.
pub fn read(texts: Texts) -> Registration {
    Operation::query("texts/read", "Reads a text.")
        .requires("texts:read")
        .resource("topic", "read", "/text")
        .handler(move |_cx, input: ReadInput| {
            let found = texts.get(&input.text).cloned();
            async move { found.ok_or_else(|| no_text(&input.text)) }
        })
}

fn no_text(name: &str) -> CallError {
    CallError::new(ErrorCode::NotFound, format!("no text `{name}`"))
}

/// The protocol: how it is asked for. A stream is one of
///
/// ```text
/// call OPERATION JSON     a call; one line comes back
/// read                    then a name a line; a line comes back for each
/// ```
///
/// and what comes back is `ok` with something, or `error` with a code.
pub struct LineProtocol {
    /// What a data plane reads.
    pub texts: Texts,
}

#[async_trait]
impl ProtocolHandler for LineProtocol {
    fn alpn(&self) -> &[u8] {
        ALPN
    }

    async fn serve(&self, connection: Arc<dyn Connection>, admitted: Admitted) {
        let Admitted { caller, door } = admitted;
        // Owned here: when this future is dropped, so are the streams, and
        // with them their calls.
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                accepted = connection.accept_bi(), if streams.len() < STREAMS_MAX => {
                    let Ok(stream) = accepted else { return };
                    let (door, caller) = (door.clone(), caller.clone());
                    streams.spawn(serve_stream(door, caller, self.texts.clone(), stream));
                }
                Some(_) = streams.join_next() => {}
                () = door.draining() => break,
            }
        }
        // The node stops: what runs may finish.
        while streams.join_next().await.is_some() {}
        connection.close(STOPPING, "the node stops");
    }
}

async fn serve_stream(door: Dispatcher, caller: Caller, texts: Texts, stream: BiStream) {
    let (mut lines, mut send) = (Lines::of(stream.recv), stream.send);
    let Some(line) = lines.next().await else {
        // Nothing came, or too much, or too late.
        send.reset(NO_LINE);
        return;
    };
    let answer = match line.split_once(' ').unwrap_or((&line, "")) {
        ("call", rest) => call(&door, caller, rest).await,
        ("read", "") => match door.authorize_from(&caller, "texts/read", LINE) {
            Ok(permit) => return read_many(&permit, &texts, lines, send).await,
            Err(error) => told(&error),
        },
        _ => told(&CallError::invalid_field(
            "",
            "a line is `call …` or `read`",
        )),
    };
    // A caller that left needs no answer.
    let _ = send.write_all(answer.as_bytes()).await;
    send.finish();
}

/// Bytes become a `Call`; everything else happens behind the door.
async fn call(door: &Dispatcher, caller: Caller, line: &str) -> String {
    let (operation, input) = line.split_once(' ').unwrap_or((line, "{}"));
    let Ok(mut call) = Call::new(operation, caller) else {
        return told(&CallError::not_found(operation));
    };
    call = call.input_json(input.to_owned());
    call.surface = LINE;
    match door.call(call).await {
        Ok(reply) => format!("ok {}\n", String::from_utf8_lossy(&reply.bytes())),
        Err(error) => told(&error),
    }
}

/// A data plane: one question at the door, then a check for each name, which
/// costs no call and sees every change of grants.
async fn read_many(permit: &Permit, texts: &Texts, mut lines: Lines, mut send: Box<dyn SendHalf>) {
    while let Some(name) = lines.next().await {
        // What was checked is what is used: `name` is only what was sent.
        let answer = match permit.check("read", ResourceKind::Topic, &name) {
            Ok(checked) => match texts.get(&checked) {
                Some(text) => format!("ok {text}\n"),
                None => told(&no_text(&checked)),
            },
            Err(error) => told(&error),
        };
        if send.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
    send.finish();
}

fn told(error: &CallError) -> String {
    format!("error {}: {}\n", error.code, error.message)
}

/// Lines of a stream, each within its limits.
struct Lines(BufReader<Box<dyn RecvHalf>>);

impl Lines {
    fn of(recv: Box<dyn RecvHalf>) -> Self {
        Self(BufReader::new(recv))
    }

    /// The next line, if there is one, whole, short enough and in time.
    async fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        let mut limited = (&mut self.0).take(LINE_BYTES_MAX);
        let read = timeout(LINE_WAIT, limited.read_line(&mut line)).await;
        read.ok()?.ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    }
}

/// The other side: sends lines on a stream of their own, and reads what comes
/// back.
pub async fn ask(connection: &dyn Connection, lines: &str) -> std::io::Result<String> {
    let mut stream = connection.open_bi().await.map_err(std::io::Error::other)?;
    stream.send.write_all(lines.as_bytes()).await?;
    stream.send.finish();
    let mut answers = String::new();
    stream.recv.read_to_string(&mut answers).await?;
    Ok(answers)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut dirs = std::env::args().skip(1);
    let mut dir = |default: &str| dirs.next().unwrap_or_else(|| default.into());
    let loopback: SocketAddr = "127.0.0.1:0".parse()?;
    let texts: Texts = Arc::new(BTreeMap::from([
        ("news/today".to_owned(), "all is well".to_owned()),
        ("notes/mine".to_owned(), "buy milk".to_owned()),
    ]));
    let home = Node::builder()
        .name("home")
        .data_dir(dir("./data-a"))
        .bind(loopback)
        .operation(read(texts.clone()))
        .handler(Arc::new(LineProtocol { texts }))
        .spawn()
        .await?;
    let laptop = Node::builder()
        .name("laptop")
        .data_dir(dir("./data-b"))
        .bind(loopback)
        .spawn()
        .await?;

    let ticket = home.invite(&["texts:read", "topic:news/*=read"]).await?;
    let peer = laptop.join(&ticket, &[]).await?;
    let connection = laptop.connect(&peer, ALPN).await?;
    for lines in [
        "call texts/read {\"text\":\"news/today\"}\n",
        "read\nnews/today\nnotes/mine\n",
        "call node/shutdown\n",
    ] {
        print!("{}", ask(&*connection, lines).await?);
    }
    drop(connection);
    laptop.shutdown(Duration::from_secs(1)).await;
    home.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
