//! An operation that knocks at somebody else's door, with a token that only it
//! is given.
//!
//! `cargo run -p alknet --example credential -- ./data 127.0.0.1:8000 < token.txt`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{CallError, Context, ErrorCode, Node, Operation, Registration};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Deserialize, JsonSchema)]
struct Server {
    /// Where it listens.
    server: String,
}

fn fetch_status() -> Registration {
    Operation::query("status/fetch", "Asks a server how it is.")
        .credential("example", "ada")
        .handler(|cx: Context, input: Server| async move {
            let token = cx.credential("example", "ada")?;
            let token = token.expose_text().unwrap_or_default();
            let unreachable =
                |error: std::io::Error| CallError::new(ErrorCode::Unavailable, error.to_string());
            fetch(&input.server, token).await.map_err(unreachable)
        })
}

/// The first line of the answer.
async fn fetch(server: &str, token: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET / HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let dir = words.next().unwrap_or_else(|| "./data".into());
    let server = words.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let node = Node::builder()
        .data_dir(dir)
        .bind("127.0.0.1:0".parse()?)
        .operation(fetch_status())
        .spawn()
        .await?;
    let input = json!({ "server": server });
    // Once: it is sealed in the data directory, and there after a restart.
    if let Err(error) = node.client().call_json("status/fetch", &input).await {
        println!("{error}");
        let token = std::io::read_to_string(std::io::stdin())?;
        let put = json!({ "provider": "example", "account": "ada", "secret": token.trim_end() });
        node.client().call_json("credentials/put", &put).await?;
    }
    let status = node.client().call_json("status/fetch", &input).await?;
    println!("{status}");
    node.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
