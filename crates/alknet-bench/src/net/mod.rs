//! Whole nodes beside bare iroh in the network lab: how long it takes to meet,
//! what calls and bulk take on a direct path and through a relay, and what a
//! relay itself costs.

mod bare;
mod ground;
mod node;
mod relay;
mod report;
mod run;
mod task;

pub(crate) use run::{Outcome, Plan, measure};

use anyhow::Result;
use task::Setup;

/// What a process of this area is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Role {
    /// Which part it plays.
    part: Part,
    /// What it is told of its surroundings, in JSON.
    setup: String,
}

/// Which part a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// alknet's relay.
    Relay,
    /// iroh's.
    BareRelay,
    /// A node that answers.
    Server,
    /// A node that asks.
    Client,
    /// An iroh endpoint that answers.
    BareServer,
    /// An iroh endpoint that asks.
    BareClient,
}

impl Part {
    /// How the command line calls it.
    fn word(self) -> &'static str {
        match self {
            Part::Relay => "relay",
            Part::BareRelay => "bare-relay",
            Part::Server => "server",
            Part::Client => "client",
            Part::BareServer => "bare-server",
            Part::BareClient => "bare-client",
        }
    }
}

/// Plays a part until there are no more orders.
pub(crate) async fn serve_role(role: Role) -> Result<()> {
    let setup: Setup = serde_json::from_str(&role.setup)?;
    match role.part {
        Part::Relay => relay::serve(setup).await,
        Part::BareRelay => relay::serve_bare(setup).await,
        Part::Server => node::serve(setup).await,
        Part::Client => node::visit(setup).await,
        Part::BareServer => bare::serve(setup).await,
        Part::BareClient => bare::visit(setup).await,
    }
}
