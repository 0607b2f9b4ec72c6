//! Two nodes in one program: one serves a counter, the other is invited and
//! calls it with typed requests, once and as a subscription.
//!
//! `cargo run -p alknet --example client -- ./data-a ./data-b`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{Node, Operation};
use futures::StreamExt;
use std::{net::SocketAddr, time::Duration};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dirs = (
        args.next().unwrap_or("./data-a".into()),
        args.next().unwrap_or("./data-b".into()),
    );
    let loopback: SocketAddr = "127.0.0.1:0".parse()?;
    let double = Operation::query("math/double", "Doubles a number.")
        .handler(|_cx, n: u64| async move { Ok(n * 2) });
    let count = Operation::subscription("math/count", "Counts up to a number.")
        .stream(|_cx, to: u64| async move { Ok(futures::stream::iter((1..=to).map(Ok))) });
    let home = Node::builder()
        .name("home")
        .data_dir(dirs.0)
        .bind(loopback)
        .operations([double, count])
        .spawn()
        .await?;
    let laptop = Node::builder()
        .name("laptop")
        .data_dir(dirs.1)
        .bind(loopback)
        .spawn()
        .await?;

    let ticket = home.invite(&["math/double", "math/count"]).await?;
    let home_there = laptop.join(&ticket, &[]).await?;
    laptop
        .connected(&home_there, Duration::from_secs(10))
        .await?;

    let client = laptop.peer(&home_there);
    let doubled: u64 = client.call("math/double", &21u64).await?;
    println!("doubled: {doubled}");
    let mut numbers = client.subscribe::<u64, u64>("math/count", &3).await?;
    while let Some(n) = numbers.next().await {
        println!("counted: {}", n?);
    }
    laptop.shutdown(Duration::from_secs(1)).await;
    home.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
