//! Two nodes: one has a bucket, the other one writes a file into it, lists it,
//! and fetches it in pieces as it comes.
//!
//! `cargo run -p alknet --example files -- ./a ./b ./shared`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{ErrorCode, Node, files::FileStat};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

async fn start(dir: &str, shared: Option<&Path>) -> Result<Node, alknet::StartError> {
    let mut node = Node::builder()
        .data_dir(dir)
        .bind(([127, 0, 0, 1], 0).into())
        .relays(["none"]);
    if let Some(shared) = shared {
        node = node.bucket("shared", shared);
    }
    node.spawn().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(a), Some(b), Some(shared)) = (words.next(), words.next(), words.next()) else {
        return Err("files DATA_DIR OTHER_DATA_DIR SHARED_DIR".into());
    };
    std::fs::create_dir_all(&shared)?;
    let here = start(&a, Some(&std::path::absolute(&shared)?)).await?;
    let there = start(&b, None).await?;

    // Nothing is shared with anybody before it is granted.
    let grants = ["fs:*", "bucket:shared/public/**=list,read,write"];
    let name = there.join(&here.invite(&grants).await?, &[]).await?;
    there.connected(&name, Duration::from_secs(30)).await?;
    let here_from_there = there.peer(&name);

    // Small texts go in one call; whole or not at all.
    let mut text = json!({ "file": "shared/notes.txt", "text": "water the roses\n" });
    match here_from_there.call_json("fs/write-text", &text).await {
        Err(error) if error.is(ErrorCode::Forbidden) => println!("refused: shared/notes.txt"),
        other => return Err(format!("written where nothing was granted: {other:?}").into()),
    }
    text["file"] = json!("shared/public/notes.txt");
    text["parents"] = json!(true);
    let written: Value = here_from_there.call("fs/write-text", &text).await?;
    println!("written: {} bytes", written["stat"]["bytes"]);

    let list = json!({ "file": "shared/public" });
    let listed: Value = here_from_there.call("fs/list", &list).await?;
    println!("listed: {}", listed["entries"][0]["name"]);

    // Any length goes through a channel: its reply, its bytes, its result.
    let file = json!({ "file": "shared/public/notes.txt" });
    let mut read = here_from_there.open("fs/read", &file).await?;
    let stat: FileStat = read.reply.parse()?;
    read.channel.tx.end();
    let mut bytes = 0;
    while let Some(chunk) = read.channel.rx.recv().await? {
        bytes += chunk.bytes.len() as u64;
    }
    let result: Value = read.done.await?.parse()?;
    println!("read: {bytes} of {}, {}", stat.bytes, result["bytes"]);

    there.shutdown(Duration::from_secs(1)).await;
    here.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
