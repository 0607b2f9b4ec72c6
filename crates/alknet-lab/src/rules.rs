//! What routers do with packets, as scripts of nftables.

use crate::site::Nat;
use std::fmt::Write;

/// What a router does to packets that it forwards, besides its NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Impairments {
    /// Of a hundred packets, each way.
    pub(crate) loss_percent: u32,
    pub(crate) udp_blocked: bool,
    pub(crate) outage: bool,
}

/// Where mappings are found once the router has lost its first ones: not where
/// a system chooses ports itself, for a port that fits is kept. Two, so that
/// every loss moves them.
const PORTS: [&str; 2] = ["10000-19999", "20000-29999"];

/// The whole rules of a router between `lan` and `wan`.
pub(crate) fn router(nat: Nat, inside: &str) -> String {
    let mut script = String::from("table inet filter {\n chain impair {\n }\n");
    if nat.keeps_state() {
        // Without the rule for what is new the kernel would keep a packet that
        // came too early as a conversation with the router itself, and give
        // the host behind another port when it answers: two cones would then
        // never meet.
        script.push_str(
            " chain input {\n  type filter hook input priority 0; policy accept;\n  \
             iifname \"wan\" ct state established,related accept\n  \
             iifname \"wan\" meta l4proto { tcp, udp } drop\n }\n",
        );
    }
    let policy = if nat.keeps_state() { "drop" } else { "accept" };
    // Routers clamp what TCP sends to what fits, or else downloads would hang
    // where something on the way drops what says so.
    let _ = write!(
        script,
        " chain forward {{\n  type filter hook forward priority 0; policy {policy};\n  \
         jump impair\n  tcp flags syn tcp option maxseg size set rt mtu\n"
    );
    if nat.keeps_state() {
        script.push_str(
            "  iifname \"lan\" oifname \"wan\" accept\n  \
             iifname \"wan\" oifname \"lan\" ct state established,related accept\n",
        );
    }
    script.push_str(" }\n}\n");
    if nat.translates() {
        script.push_str(
            "table ip nat {\n chain post {\n  \
             type nat hook postrouting priority srcnat; policy accept;\n }\n}\n",
        );
        script.push_str(&mappings(nat, inside, 0));
    }
    script
}

/// A script with every kind of rule that a router may get.
pub(crate) fn everything() -> String {
    let impairments = Impairments {
        loss_percent: 1,
        udp_blocked: true,
        outage: true,
    };
    router(Nat::Symmetric, "192.168.0.0/24") + &impair(impairments)
}

/// Replaces what a router impairs.
pub(crate) fn impair(impairments: Impairments) -> String {
    let mut script = String::from("flush chain inet filter impair\n");
    let mut rule = |text: &str| {
        let _ = writeln!(script, "add rule inet filter impair {text}");
    };
    if impairments.outage {
        rule("drop");
    }
    if impairments.udp_blocked {
        rule("meta l4proto udp drop");
    }
    if impairments.loss_percent > 0 {
        rule(&format!(
            "numgen random mod 100 < {} drop",
            impairments.loss_percent
        ));
    }
    script
}

/// Replaces how a NAT maps; `losses` counts how often it forgot.
///
/// A masquerade keeps the port where it can, and the port of an earlier
/// conversation from the same socket always (RFC 4787 calls it
/// endpoint-independent mapping); `fully-random` draws one for each
/// conversation (address and port-dependent mapping).
pub(crate) fn mappings(nat: Nat, inside: &str, losses: usize) -> String {
    let base = "flush chain ip nat post\nadd rule ip nat post ";
    let to = match losses {
        0 => String::new(),
        _ => format!(" to :{}", PORTS[losses % PORTS.len()]),
    };
    let random = if nat == Nat::Symmetric {
        " fully-random"
    } else {
        ""
    };
    let protocols = if to.is_empty() {
        ""
    } else {
        "meta l4proto { tcp, udp } "
    };
    format!("{base}ip saddr {inside} oifname \"wan\" {protocols}masquerade{to}{random}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_impaired_at_first() {
        let script = impair(Impairments::default());
        assert_eq!(script, "flush chain inet filter impair\n");
    }

    #[test]
    fn every_impairment_is_a_rule() {
        let script = impair(Impairments {
            loss_percent: 7,
            udp_blocked: true,
            outage: true,
        });
        assert_eq!(
            script,
            "flush chain inet filter impair\n\
             add rule inet filter impair drop\n\
             add rule inet filter impair meta l4proto udp drop\n\
             add rule inet filter impair numgen random mod 100 < 7 drop\n"
        );
    }

    #[test]
    fn only_a_symmetric_nat_draws_ports() {
        let random = |nat| router(nat, "192.168.1.0/24").contains("fully-random");
        assert!(random(Nat::Symmetric));
        for nat in [Nat::Open, Nat::Firewall, Nat::Cone, Nat::CarrierGrade] {
            assert!(!random(nat), "{nat:?}");
        }
    }

    #[test]
    fn every_loss_moves_the_ports() {
        let script = |losses| mappings(Nat::Cone, "192.168.1.0/24", losses);
        assert!(!script(0).contains(" to :"));
        for losses in 0..5 {
            assert_ne!(script(losses), script(losses + 1));
        }
    }

    #[test]
    fn a_router_without_nat_translates_nothing() {
        for nat in [Nat::Open, Nat::Firewall] {
            assert!(
                !router(nat, "198.51.100.0/29").contains("masquerade"),
                "{nat:?}"
            );
        }
    }
}
