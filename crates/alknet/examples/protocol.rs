//! A protocol of one's own on its own ALPN: each stream carries a line with an
//! operation's name and gets the JSON reply. It has no powers of its own: what
//! a caller may do is what it was granted, and the door decides.
//!
//! `cargo run -p alknet --example protocol -- ./data`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{
    Call, Dispatcher, Node,
    transport::{Admitted, Connection, ProtocolHandler},
};
use async_trait::async_trait;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[derive(Default)]
struct LineProtocol {
    door: OnceLock<Dispatcher>,
}

#[async_trait]
impl ProtocolHandler for LineProtocol {
    fn alpn(&self) -> &[u8] {
        b"example/line/1"
    }

    async fn serve(&self, connection: Arc<dyn Connection>, admitted: Admitted) {
        let Some(door) = self.door.get() else { return };
        while let Ok(mut stream) = connection.accept_bi().await {
            let mut line = String::new();
            let Ok(_) = BufReader::new(stream.recv).read_line(&mut line).await else {
                continue;
            };
            let reply = match Call::new(line.trim(), admitted.caller.clone()) {
                Err(error) => error.to_string(),
                Ok(call) => match door.call(call).await {
                    Ok(reply) => String::from_utf8_lossy(&reply.bytes()).into_owned(),
                    Err(error) => error.to_string(),
                },
            };
            // A caller that left needs no reply.
            let _ = stream.send.write_all(reply.as_bytes()).await;
            stream.send.finish();
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lines = Arc::new(LineProtocol::default());
    let dir = std::env::args().nth(1).unwrap_or_else(|| "./data".into());
    let node = Node::builder()
        .data_dir(dir)
        .handler(lines.clone())
        .spawn()
        .await?;
    lines.door.get_or_init(|| node.door().clone());
    println!(
        "serving {} as {}",
        String::from_utf8_lossy(lines.alpn()),
        node.name()
    );
    if std::env::args().nth(2).as_deref() != Some("--once") {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    node.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
