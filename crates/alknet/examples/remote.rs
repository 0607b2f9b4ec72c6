//! A program that is no node: it has a key of its own, redeems a ticket, and
//! calls the node that made it. Run again, it finds what it kept.
//!
//! `cargo run -p alknet --example remote -- ./kept TICKET`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{CallError, ErrorCode, ProgramKey, Remote, storage::PeerAddresses};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

/// What the program keeps. The key is a secret: whoever has it is this program.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: [u8; 32],
    node_id: [u8; 32],
    addresses: PeerAddresses,
}

async fn connect(file: &Path, ticket: Option<&str>) -> Result<Remote, Box<dyn std::error::Error>> {
    let Some(ticket) = ticket else {
        let kept: Kept = serde_json::from_slice(&fs::read(file)?)?;
        let key = ProgramKey::from_bytes(&kept.key);
        return Ok(Remote::connect(&key, &kept.node_id, &kept.addresses).await?);
    };
    let key = ProgramKey::generate();
    let remote = Remote::join(&key, "reporter", ticket).await?;
    let kept = Kept {
        key: key.to_bytes(),
        node_id: remote.node_id(),
        addresses: remote.addresses().clone(),
    };
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    serde_json::to_writer(file, &kept)?;
    Ok(remote)
}

/// Asks again while the node says that nothing was done, at most three times.
async fn patiently(remote: &Remote, operation: &str, input: &Value) -> Result<Value, CallError> {
    let client = remote.client().timeout(Duration::from_secs(5));
    let mut tries = 3;
    loop {
        match client.call_json(operation, input).await {
            Err(error) if error.retryable && tries > 1 => {
                tries -= 1;
                let wait = error.retry_after.unwrap_or(Duration::from_millis(200));
                tokio::time::sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().unwrap_or_else(|| "./kept".into());
    let remote = connect(Path::new(&file), args.next().as_deref()).await?;
    let greeting = patiently(&remote, "demo/greet", &json!({ "name": "Ada" })).await?;
    println!("{}", greeting.as_str().unwrap_or_default());
    match remote.client().call_json("node/shutdown", &json!({})).await {
        Err(error) if error.is(ErrorCode::Forbidden) => println!("refused: {}", error.message),
        other => println!("not refused: {other:?}"),
    }
    remote.close().await;
    Ok(())
}
