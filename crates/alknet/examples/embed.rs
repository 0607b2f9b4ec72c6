//! A program that is a node: it registers a typed operation, invites nobody,
//! and calls itself.
//!
//! `cargo run -p alknet --example embed -- ./data`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{CallError, Node, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

#[derive(Serialize, Deserialize, JsonSchema)]
struct City {
    /// Its name.
    name: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Report {
    /// Degrees Celsius.
    celsius: f64,
}

async fn look_up(city: City) -> Result<Report, CallError> {
    Ok(Report {
        celsius: city.name.len() as f64,
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weather = Operation::query("weather/now", "Current weather of a city.")
        .example(json!({ "name": "Oslo" }), json!({ "celsius": 4.0 }))
        .handler(|_cx, city: City| look_up(city));
    let dir = std::env::args().nth(1).unwrap_or_else(|| "./data".into());
    let node = Node::builder()
        .data_dir(dir)
        .operation(weather)
        .spawn()
        .await?;
    let report: Report = node
        .client()
        .call(
            "weather/now",
            &City {
                name: "Oslo".into(),
            },
        )
        .await?;
    println!("{} is at {} degrees", node.name(), report.celsius);
    node.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
