//! What the lab does, measured, as a table.

use crate::Failure;
use alknet_lab::{Host, Lab, Nat, Site, measure};
use std::{
    io::Write,
    time::{Duration, Instant},
};

/// How long each throughput is measured.
const TIME: Duration = Duration::from_secs(2);
/// Datagrams for a loss.
const DATAGRAMS: u32 = 10_000;

/// Makes a lab, impairs it in every way, and prints what was measured.
pub(crate) fn measure(out: &mut dyn Write) -> Result<(), Failure> {
    let lab = Lab::new()?;
    let (relay, other) = (lab.host("relay")?, lab.host("other")?);
    let started = Instant::now();
    let home = lab.site("home", Nat::Cone)?;
    let made = started.elapsed();
    let mut row = |set: &str, measured: String| {
        let done = writeln!(out, "| {set} | {measured} |").and_then(|()| out.flush());
        done.map_err(Failure::from)
    };
    row("set", "measured".into())?;
    row("---", "---".into())?;
    row("a site is made", format!("{} ms", made.as_millis()))?;
    row("nothing", whole(&home, &relay)?)?;
    for milliseconds in [25, 100] {
        home.delay(Duration::from_millis(milliseconds))?;
        let set = format!("delay {milliseconds} ms each way");
        row(&set, whole(&home, &relay)?)?;
    }
    home.delay(Duration::ZERO)?;
    for percent in [1, 10] {
        home.loss(percent)?;
        let lost = measure::loss(&home, &relay, DATAGRAMS)?;
        row(
            &format!("loss {percent} % each way"),
            format!(
                "{:.1} % up, {:.1} % down",
                lost.up * 100.0,
                lost.down * 100.0
            ),
        )?;
    }
    home.loss(0)?;
    for rate in ["5mbit", "20mbit", "100mbit"] {
        home.rate(rate)?;
        row(&format!("rate {rate}"), carried(&home, &relay)?)?;
    }
    home.unlimit()?;
    home.mtu(1300)?;
    let mtu = measure::path_mtu(&home, &relay)?;
    row(
        "MTU 1300",
        format!("{} bytes up, {} down", mtu.up, mtu.down),
    )?;
    home.mtu(1500)?;
    home.block_udp()?;
    row(
        "UDP blocked",
        format!(
            "UDP {}, TCP {}",
            passes(measure::udp_passes(&home, &relay)?),
            passes(measure::tcp_passes(&home, &relay)?)
        ),
    )?;
    home.allow_udp()?;
    home.udp_timeout(2)?;
    let mut open = |silence: u64| {
        let open = measure::is_open_after(&home, &relay, Duration::from_secs(silence))?;
        let state = if open { "open" } else { "closed" };
        row(
            "UDP timeout 2 s",
            format!("{state} after {silence} s of silence"),
        )
    };
    open(1)?;
    open(5)?;
    for nat in Nat::ALL {
        let site = lab.site(nat.name(), nat)?;
        row(
            &format!("site `{}`", nat.name()),
            kind(&site, &relay, &other)?,
        )?;
    }
    Ok(())
}

fn passes(passes: bool) -> &'static str {
    if passes { "passes" } else { "does not pass" }
}

fn whole(home: &Host, relay: &Host) -> Result<String, Failure> {
    let round_trip = measure::round_trip(home, relay)?.as_secs_f64() * 1000.0;
    Ok(format!(
        "round trip {round_trip:.2} ms; {}",
        carried(home, relay)?
    ))
}

fn carried(home: &Host, relay: &Host) -> Result<String, Failure> {
    let carried = measure::throughput(home, relay, TIME)?;
    // Below 2^53 without loss; more bits a second nothing carries here.
    #[allow(clippy::cast_precision_loss)]
    let megabits = |bits: u64| bits as f64 / 1e6;
    Ok(format!(
        "one TCP stream {:.1} Mbit/s up, {:.1} down",
        megabits(carried.up),
        megabits(carried.down)
    ))
}

fn kind(site: &Site, relay: &Host, other: &Host) -> Result<String, Failure> {
    let seen = measure::mapping(site, &[relay, other])?;
    let mapping = if seen[0] == seen[1] {
        "one mapping for all destinations"
    } else {
        "another mapping for each destination"
    };
    let filter = if measure::lets_in(site, relay, other)? {
        "strangers get in"
    } else {
        "only answers get in"
    };
    Ok(format!("{mapping}; {filter}"))
}
