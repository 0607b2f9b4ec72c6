//! Tickets: what people paste.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_core::storage::Timestamp;
use alknet_node::ticket::{ADDRESSES_MAX, PREFIX, RELAYS_MAX, Ticket};
use data_encoding::BASE32_NOPAD;
use std::net::SocketAddr;

pub(super) const TICKETS: Target = Target {
    name: "tickets",
    about: "A ticket reads back as it was written, and anything else is refused without harm.",
    run: tickets,
    seeds: || {
        let text = sample().encode();
        let upper = text.trim_start_matches(PREFIX).to_ascii_uppercase();
        let bytes = BASE32_NOPAD
            .decode(upper.as_bytes())
            .expect("encoded above");
        let body = &bytes[3..bytes.len() - 4];
        vec![
            [&[0], text.as_bytes()].concat(),
            [&[0], PREFIX.as_bytes()].concat(),
            [&[1], body].concat(),
            vec![2, 1, 2, 3, 4, 1, 4, 127, 0, 0, 1, 0, 80, 1, 9],
            vec![2],
        ]
    },
    tokens: &[
        b"alkinvite1",
        b"aaaaaaaa",
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0, 0],
        b"\n  ",
    ],
    bytes_max: 600,
    held_max: 4 * MIB,
};

fn sample() -> Ticket {
    Ticket {
        node_id: [7; 32],
        addresses: vec![
            SocketAddr::from(([192, 168, 1, 2], 4433)),
            SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4433)),
        ],
        relays: vec!["https://relay.example.org/".into()],
        secret: [9; 16],
        expires_at: Timestamp(1_790_000_000_000),
    }
}

fn tickets(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(3) {
        // As it is pasted.
        0 => check(&String::from_utf8_lossy(source.rest())),
        // A body that the checksum does not keep out.
        1 => check(&sealed(source.rest())),
        _ => {
            let ticket = made(&mut source);
            let text = ticket.encode();
            assert_eq!(Ticket::parse(&text).as_ref(), Ok(&ticket));
            // Broken over lines, and shouted.
            let width = 1 + source.below(60);
            let lines: Vec<String> = text
                .as_bytes()
                .chunks(width)
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect();
            assert_eq!(Ticket::parse(&lines.join("\r\n ")).as_ref(), Ok(&ticket));
            let cut = source.below(text.len().min(256));
            assert!(Ticket::parse(&text[..cut]).is_err());
            note(text.len().min(400) / 8);
        }
    }
}

fn sealed(body: &[u8]) -> String {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = [&[1], &length[..], body].concat();
    let checksum = blake3::hash(&bytes);
    bytes.extend(&checksum.as_bytes()[..4]);
    format!(
        "{PREFIX}{}",
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    )
}

fn check(text: &str) {
    let ticket = match Ticket::parse(text) {
        Ok(ticket) => ticket,
        Err(error) => return note(std::mem::discriminant(&error)),
    };
    assert!(ticket.addresses.len() <= ADDRESSES_MAX && ticket.relays.len() <= RELAYS_MAX);
    assert_eq!(
        Ticket::parse(&ticket.encode()).as_ref(),
        Ok(&ticket),
        "{text:?}"
    );
    assert!(
        !format!("{ticket:?}").contains("secret"),
        "the secret is shown"
    );
    note((ticket.addresses.len(), ticket.relays.len()));
}

fn made(source: &mut Source<'_>) -> Ticket {
    let address = |source: &mut Source<'_>| match source.flag() {
        true => SocketAddr::from((source.array::<4>(), source.u16())),
        false => SocketAddr::from((source.array::<16>(), source.u16())),
    };
    Ticket {
        secret: source.array(),
        expires_at: Timestamp(source.u64().cast_signed()),
        node_id: [source.byte(); 32],
        addresses: (0..source.below(ADDRESSES_MAX + 1))
            .map(|_| address(source))
            .collect(),
        relays: (0..source.below(RELAYS_MAX + 1))
            .map(|_| source.text(40))
            .collect(),
    }
}
