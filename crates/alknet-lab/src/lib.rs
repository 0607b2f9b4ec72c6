//! Networks on one machine: NATs, losses, delays, and what was really sent.
//!
//! A [`Lab`] is an internet of its own in network namespaces of Linux: public
//! [`Host`]s, and [`Site`]s behind a router of some kind ([`Nat`]). Programs run
//! in them as they are ([`Host::command`]), the network changes under them while
//! they run ([`Site::rebind`], [`Site::delay`], [`Host::link_down`]), and a
//! [`Capture`] tells what they sent. Whatever is said to be impaired can be
//! [`measure`]d.
//!
//! Not here: anything of alknet. It takes root, and the programs `ip`, `tc` and
//! `nft`; without them [`Lab::open`] counts a test as skipped. Interfaces, rules
//! and settings of the machine itself are never touched: beside its namespaces
//! a lab makes directories in `/etc/netns`, and all of them go when it is
//! dropped, or, if its process was killed, with the next lab or [`clean`].
//!
//! ```no_run
//! use alknet_lab::{Lab, Nat, measure};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), alknet_lab::LabError> {
//! let Some(lab) = Lab::open("far away") else { return Ok(()) };
//! let server = lab.host("server")?;
//! let home = lab.site("home", Nat::Cone)?;
//! home.delay(Duration::from_millis(25))?;
//! assert!(measure::round_trip(&home, &server)? > Duration::from_millis(50));
//! home.command("curl").arg(format!("http://{}/", server.v4())).status().ok();
//! # Ok(())
//! # }
//! ```

mod capture;
mod conntrack;
mod dns;
mod error;
mod host;
mod lab;
mod line;
pub mod measure;
mod netns;
mod owner;
mod packet;
mod rules;
pub mod scenario;
mod site;
mod skip;
mod wire;

pub use crate::{
    capture::{Capture, Captured},
    error::LabError,
    host::{Host, command_in},
    lab::Lab,
    owner::{clean, clean_own, namespaces},
    packet::{Packet, Protocol},
    site::{Nat, Site},
    skip::skip,
};
