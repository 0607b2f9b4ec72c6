//! `alknet netcheck`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    node_access,
    output::cell,
    table::{self, one_line},
};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
Says whether UDP gets out, over IPv4 and IPv6, what kind of NAT is in between,
how each relay answers, and what to do. The running node is asked; if none runs,
the network is looked at as the node would use it.

Nobody is contacted but the relays that are configured, or those given with
--relay, and the router if --port-mapping or `port_mapping` under `[network]`
says so. Telling the kind of a NAT takes two relays at different addresses.

Exit status: 0 if others can reach this node by some means, 3 if by none.

Examples:
  alknet netcheck
  alknet netcheck --relay https://relay.example/ --relay https://relay2.example/
  alknet netcheck --port-mapping --json")]
pub(crate) struct NetcheckArgs {
    /// Looks at this relay instead of those configured: an address as `alknet relay` prints it,
    /// or `n0`; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    relay: Vec<String>,
    /// Asks the router whether it opens ports (UPnP, NAT-PMP, PCP); opens none
    #[arg(long)]
    port_mapping: bool,
}

pub(crate) async fn run(app: &App, args: NetcheckArgs) -> Result<Exit, Failure> {
    let is_running = node_access::is_running(app.dir());
    let report = match is_running && args.relay.is_empty() && !args.port_mapping {
        true => app.ask("node/netcheck", json!({})).await?,
        false => {
            node_access::netcheck(app.dir(), args.relay, args.port_mapping, is_running).await?
        }
    };
    match app.out.json {
        true => app.out.json_line(&report)?,
        false => app.out.text(&render(&report))?,
    }
    Ok(match report.get("reachable") {
        Some(Value::Bool(true)) => Exit::FINE,
        _ => Exit::UNREACHABLE,
    })
}

/// The lines for people.
fn render(report: &Value) -> String {
    let at = |pointer: &str| report.pointer(pointer);
    let list = |pointer: &str| at(pointer).and_then(Value::as_array).into_iter().flatten();
    let public = cell(at("/public_addresses"));
    let mut pairs = vec![
        (
            "udp",
            answer(at("/udp"), ["gets out", "does not get out", "not known"]),
        ),
        ("ipv4", family(at("/ipv4"))),
        ("ipv6", family(at("/ipv6"))),
        ("nat", nat(report)),
        (
            "seen as",
            Some(public)
                .filter(|text| !text.is_empty())
                .unwrap_or("not known".into()),
        ),
    ];
    if let Some(found) = at("/port_mapping").filter(|found| found.is_object()) {
        let offers = [("upnp", "UPnP"), ("nat_pmp", "NAT-PMP"), ("pcp", "PCP")];
        let offers = offers
            .iter()
            .filter(|(field, _)| found.get(field) == Some(&json!(true)));
        let offers: Vec<&str> = offers.map(|(_, name)| *name).collect();
        let none = "the router offers none".to_owned();
        let offers = Some(offers.join(", ")).filter(|offers| !offers.is_empty());
        pairs.push(("port mapping", offers.unwrap_or(none)));
    }
    if at("/captive_portal") == Some(&json!(true)) {
        pairs.push((
            "captive portal",
            "somebody answers in the relays' place".into(),
        ));
    }
    for relay in list("/relays") {
        pairs.push(("relay", relay_words(relay)));
    }
    if list("/relays").next().is_none() {
        pairs.push(("relay", "none".into()));
    }
    let mut text = table::pairs(&pairs);
    for line in list("/advice") {
        text.push_str(&format!("- {}\n", one_line(&cell(Some(line)))));
    }
    text
}

fn answer(value: Option<&Value>, [yes, no, unknown]: [&str; 3]) -> String {
    match value {
        Some(Value::Bool(true)) => yes.into(),
        Some(Value::Bool(false)) => no.into(),
        _ => unknown.into(),
    }
}

fn family(family: Option<&Value>) -> String {
    let field = |name: &str| family.and_then(|family| family.get(name));
    let address = cell(field("address"));
    if address.is_empty() {
        return "no route".into();
    }
    match field("udp") {
        Some(Value::Bool(true)) => format!("{address}, answered over UDP"),
        _ => address,
    }
}

fn nat(report: &Value) -> String {
    let kind = cell(report.get("nat"));
    let words = match kind.as_str() {
        "endpoint-independent" => "endpoint-independent (\"cone\")",
        "address-dependent" => "address-dependent (\"symmetric\")",
        other => other,
    };
    match report.get("nat_note").and_then(Value::as_str) {
        Some(note) => format!("{words}: {note}"),
        None => words.to_owned(),
    }
}

/// `https://relay.example/ works, 20.5 ms over QUIC (HTTPS 22.1 ms)`.
fn relay_words(relay: &Value) -> String {
    let at = |pointer: &str| relay.pointer(pointer);
    let time = |pointer: &str| at(pointer).and_then(Value::as_f64);
    let way = |name: &str, field: &str| match time(&format!("/{field}/latency_ms")) {
        Some(latency) => format!("{name} {latency:.1} ms"),
        None => {
            let error = cell(at(&format!("/{field}/error")));
            format!("{name} no answer ({error})")
        }
    };
    let url = cell(at("/url"));
    let works = answer(at("/works"), ["works", "does not work", "not known"]);
    let mut words = format!(
        "{url} {works}: {}, {}",
        way("QUIC", "quic"),
        way("HTTPS", "https")
    );
    let refusal = cell(at("/refusal"));
    if !refusal.is_empty() {
        words.push_str(&format!("; refused: {refusal}"));
    }
    one_line(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_plain() {
        let report = json!({
            "udp": true, "ipv4": { "route": true, "address": "192.168.1.2", "udp": true },
            "ipv6": { "route": false, "udp": false }, "nat": "address-dependent",
            "public_addresses": ["203.0.113.7:1", "203.0.113.7:2"],
            "relays": [
                { "url": "https://a.example/", "works": true, "quic": { "answered": true, "latency_ms": 20.5 },
                  "https": { "answered": true, "latency_ms": 22.06 } },
                { "url": "https://b.example/", "works": false, "quic": { "answered": false, "error": "no answer" },
                  "https": { "answered": true, "latency_ms": 3.0 }, "refusal": "not a peer" },
            ],
            "port_mapping": { "upnp": true, "nat_pmp": false, "pcp": true },
            "captive_portal": false, "reachable": true, "advice": ["do this"],
        });
        assert_eq!(
            render(&report),
            "udp:           gets out\n\
             ipv4:          192.168.1.2, answered over UDP\n\
             ipv6:          no route\n\
             nat:           address-dependent (\"symmetric\")\n\
             seen as:       203.0.113.7:1, 203.0.113.7:2\n\
             port mapping:  UPnP, PCP\n\
             relay:         https://a.example/ works: QUIC 20.5 ms, HTTPS 22.1 ms\n\
             relay:         https://b.example/ does not work: QUIC no answer (no answer), HTTPS 3.0 ms; refused: not a peer\n\
             - do this\n"
        );
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let report = json!({
            "udp": null, "ipv4": { "route": true, "address": "192.168.1.2", "udp": false },
            "ipv6": { "route": false, "udp": false }, "nat": "unknown", "nat_note": "needs a relay to tell",
            "public_addresses": [], "relays": [], "port_mapping": null, "captive_portal": true,
            "reachable": true, "advice": [],
        });
        assert_eq!(
            render(&report),
            "udp:             not known\n\
             ipv4:            192.168.1.2\n\
             ipv6:            no route\n\
             nat:             unknown: needs a relay to tell\n\
             seen as:         not known\n\
             captive portal:  somebody answers in the relays' place\n\
             relay:           none\n"
        );
    }
}
