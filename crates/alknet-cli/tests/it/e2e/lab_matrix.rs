//! The matrix of NATs and changes: links, and what runs over them.
//!
//! `./test` runs a sample of it, `./test full` every row with 1 GiB in each
//! bulk channel. `ALKNET_LAB_SEED` picks another sample.

use alknet_lab::{
    Lab,
    scenario::{self, Options, Scenario},
};
use std::path::PathBuf;

/// Rows in a sample: each takes about half a minute.
const SAMPLE: usize = 3;

#[track_caller]
fn holds(test: &str, scenario: &Scenario) {
    if let Some(package) = scenario.missing() {
        return alknet_lab::skip(test, &format!("`{package}` is not installed"));
    }
    let Some(lab) = Lab::open(test) else {
        return;
    };
    let options = Options {
        alknet: PathBuf::from(env!("CARGO_BIN_EXE_alknet")),
        full: std::env::var_os("ALKNET_TEST_FULL").is_some(),
    };
    let row = scenario::run(lab, scenario, &options)
        .unwrap_or_else(|error| panic!("`{}`: {error}", scenario.name));
    assert!(row.deviations.is_empty(), "{row:#?}");
}

#[track_caller]
fn row(name: &str) {
    let all = scenario::all();
    let scenario = all.iter().find(|scenario| scenario.name == name).unwrap();
    holds(&format!("slow_full_matrix {name}"), scenario);
}

/// Every row has its test, and none is there twice.
macro_rules! rows {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { row($name); })*

        #[test]
        fn every_row_of_the_matrix_has_a_test() {
            let tested = [$($name),*];
            let rows: Vec<&str> = scenario::all().iter().map(|row| row.name).collect();
            assert_eq!(tested[..], rows[..]);
        }
    };
}

rows! {
    slow_full_open_and_open_meet: "open-open",
    slow_full_open_and_cone_meet: "open-cone",
    slow_full_open_and_symmetric_meet: "open-symmetric",
    slow_full_cone_and_cone_meet: "cone-cone",
    slow_full_cone_and_symmetric_stay_on_the_relay: "cone-symmetric",
    slow_full_symmetric_and_symmetric_stay_on_the_relay: "symmetric-symmetric",
    slow_full_a_carriers_cone_is_a_cone: "cone-carrier",
    slow_full_without_udp_tcp_443_to_the_relay_works: "udp-blocked",
    slow_full_a_direct_link_whose_udp_stops_falls_back_to_the_relay: "udp-becomes-blocked",
    slow_full_a_direct_link_does_not_need_the_relay_that_dies: "relay-dies-direct",
    slow_full_a_relayed_link_moves_to_the_other_relay: "relay-dies-relayed",
    slow_full_a_direct_link_survives_a_flap: "flap-direct",
    slow_full_a_relayed_link_survives_a_flap: "flap-relayed",
    slow_full_a_direct_link_survives_nat_rebinding: "rebind-direct",
    slow_full_a_relayed_link_survives_nat_rebinding: "rebind-relayed",
    slow_full_an_idle_link_survives_a_short_udp_timeout: "udp-timeout",
    slow_full_a_link_survives_from_ipv4_to_ipv6: "ipv4-to-ipv6",
    slow_full_a_clock_a_day_ahead_is_no_matter: "clock-ahead",
    slow_full_a_clock_a_day_behind_is_no_matter: "clock-behind",
    slow_full_silence_ends_with_lost_and_the_link_comes_back: "outage",
    slow_full_a_link_survives_a_smaller_mtu: "mtu-1300",
    slow_full_a_link_survives_losses: "loss-10",
    slow_full_a_link_survives_delay: "delay-100",
    slow_full_a_link_survives_a_slow_line: "rate-20",
}

/// Rows that a seed picks (splitmix64), no row twice.
fn sample(seed: u64) -> Vec<Scenario> {
    let mut left = scenario::all();
    let mut state = seed;
    let mut picked = Vec::new();
    while picked.len() < SAMPLE {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let at = usize::try_from((z ^ (z >> 31)) % left.len() as u64).unwrap();
        picked.push(left.swap_remove(at));
    }
    picked
}

#[test]
fn slow_a_sample_of_the_matrix_holds() {
    let seed = std::env::var("ALKNET_LAB_SEED").ok();
    let seed = seed.map_or(1, |seed| seed.parse().expect("a number"));
    for scenario in sample(seed) {
        holds("slow_a_sample_of_the_matrix_holds", &scenario);
    }
}
