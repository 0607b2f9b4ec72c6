//! Invite tickets: `alkinvite1` and base32 of a version, what is needed to
//! find the node and to prove the invite, and a checksum.

use alknet_core::storage::Timestamp;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, time::Duration};

/// What every ticket starts with.
pub const PREFIX: &str = "alkinvite1";
/// Longest ticket accepted, in bytes.
pub const TICKET_BYTES_MAX: usize = 4096;
/// Addresses carried at most.
pub const ADDRESSES_MAX: usize = 16;
/// Relays carried at most.
pub const RELAYS_MAX: usize = 4;
const CHECKSUM_BYTES: usize = 4;

/// Why a text is no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not start like one.
    #[error("this is no ticket: a ticket starts with `{PREFIX}`")]
    NotATicket,
    /// It ends too early.
    #[error("the ticket is truncated: copy it whole")]
    Truncated,
    /// A character was changed.
    #[error("the ticket is damaged: a character was changed on the way")]
    Damaged,
    /// A newer release made it.
    #[error("the ticket has version {0}, which this release does not know")]
    TooNew(u8),
}

/// How far the clocks of two machines may be apart: one that thinks it is
/// yesterday, or tomorrow, can still join.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(26 * 60 * 60);

/// A one-time, expiring right to become a peer, and where to redeem it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The node's public key.
    pub node_id: [u8; 32],
    /// UDP addresses.
    pub addresses: Vec<SocketAddr>,
    /// Relay URLs.
    pub relays: Vec<String>,
    /// Proves the invite; worth a peer's access until it is used.
    pub secret: [u8; 16],
    /// When it ends.
    pub expires_at: Timestamp,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("node_id", &HEXLOWER.encode(&self.node_id[..4]))
            .finish_non_exhaustive()
    }
}

/// Version 1 on the wire (postcard).
#[derive(Serialize, Deserialize)]
struct Body {
    node_id: [u8; 32],
    addresses: Vec<SocketAddr>,
    relays: Vec<String>,
    secret: [u8; 16],
    expires_at_ms: i64,
    /// Fields of later releases: an unknown even id refuses the ticket, an
    /// unknown odd one is ignored.
    ext: Vec<(u16, Vec<u8>)>,
}

impl Ticket {
    /// Whether it has expired so long ago that not even a clock which is
    /// [`CLOCK_SKEW_MAX`] off could make it valid. Before that, only the node
    /// that made it can tell.
    #[must_use]
    pub fn has_long_expired(&self, now: Timestamp) -> bool {
        let skew = i64::try_from(CLOCK_SKEW_MAX.as_millis()).unwrap_or(i64::MAX);
        self.expires_at.0.saturating_add(skew) <= now.0
    }

    /// The hash under which the inviting node knows the secret, and the
    /// invite's id.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        secret_hash(&self.secret)
    }

    /// The ticket as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let body = Body {
            node_id: self.node_id,
            addresses: self.addresses.iter().copied().take(ADDRESSES_MAX).collect(),
            relays: self.relays.iter().take(RELAYS_MAX).cloned().collect(),
            secret: self.secret,
            expires_at_ms: self.expires_at.0,
            ext: Vec::new(),
        };
        let body = postcard::to_stdvec(&body).unwrap_or_default();
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![1];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        let checksum = blake3::hash(&bytes);
        bytes.extend(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        format!(
            "{PREFIX}{}",
            BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        )
    }

    /// Reads a ticket; white space around and inside is ignored, so that a
    /// text broken over lines can be pasted.
    ///
    /// # Errors
    ///
    /// [`TicketError`] that says which it is: no ticket, truncated, damaged,
    /// too new.
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        if text.len() > TICKET_BYTES_MAX {
            return Err(TicketError::NotATicket);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(if !text.is_empty() && PREFIX.starts_with(text.as_str()) {
                TicketError::Truncated
            } else {
                TicketError::NotATicket
            });
        };
        let (bytes, left_over) = decode_base32(encoded)?;
        let [version, high, low, rest @ ..] = bytes.as_slice() else {
            return Err(TicketError::Truncated);
        };
        if *version != 1 {
            return Err(TicketError::TooNew(*version));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() < length + CHECKSUM_BYTES {
            return Err(TicketError::Truncated);
        }
        let (body, checksum) = rest.split_at(length);
        // More than was made: what of it is right is anybody's guess.
        if left_over
            || checksum.len() != CHECKSUM_BYTES
            || &blake3::hash(&bytes[..3 + length]).as_bytes()[..CHECKSUM_BYTES] != checksum
        {
            return Err(TicketError::Damaged);
        }
        let body: Body = postcard::from_bytes(body).map_err(|_| TicketError::Damaged)?;
        if body.ext.iter().any(|(id, _)| id % 2 == 0) {
            return Err(TicketError::TooNew(1));
        }
        Ok(Self {
            node_id: body.node_id,
            addresses: body.addresses.into_iter().take(ADDRESSES_MAX).collect(),
            relays: body.relays.into_iter().take(RELAYS_MAX).collect(),
            secret: body.secret,
            expires_at: Timestamp(body.expires_at_ms),
        })
    }
}

/// Decodes what can be decoded, and tells whether that was not all: a cut in the
/// middle of a byte is a truncation, not a damage.
fn decode_base32(text: &str) -> Result<(Vec<u8>, bool), TicketError> {
    let upper = text.to_ascii_uppercase();
    if !upper
        .bytes()
        .all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
    {
        return Err(TicketError::Damaged);
    }
    for cut in 0..8 {
        let end = upper.len().saturating_sub(cut);
        if let Ok(bytes) = BASE32_NOPAD.decode(&upper.as_bytes()[..end]) {
            return Ok((bytes, cut > 0));
        }
    }
    Err(TicketError::Truncated)
}

/// BLAKE3 of a ticket's secret.
#[must_use]
pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

/// The id under which an invite is listed; says nothing of its secret.
#[must_use]
pub fn invite_id(secret_hash: &[u8; 32]) -> String {
    HEXLOWER.encode(&secret_hash[..6])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            node_id: [7; 32],
            addresses: vec![
                "192.168.1.2:4433".parse().unwrap(),
                "[2001:db8::1]:4433".parse().unwrap(),
            ],
            relays: vec!["https://relay.example.org/".into()],
            secret: [9; 16],
            expires_at: Timestamp(1_790_000_000_000),
        }
    }

    #[test]
    fn a_ticket_reads_back_even_when_broken_over_lines() {
        let text = ticket().encode();
        assert_eq!(Ticket::parse(&text).unwrap(), ticket());
        let broken: String = text
            .as_bytes()
            .chunks(20)
            .map(|part| format!("  {}\r\n", std::str::from_utf8(part).unwrap()))
            .collect();
        assert_eq!(Ticket::parse(&broken).unwrap(), ticket());
    }

    /// Version 1 stays readable, and is written the same.
    #[test]
    fn the_text_of_version_1_is_fixed() {
        const GOLDEN: &str = include_str!("../tests/golden/ticket-v1.txt");
        assert_eq!(ticket().encode(), GOLDEN.trim());
    }

    #[test]
    fn every_truncation_is_told_from_damage() {
        let text = ticket().encode();
        for end in 1..text.len() {
            assert_eq!(
                Ticket::parse(&text[..end]),
                Err(TicketError::Truncated),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = ticket().encode();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert!(
                Ticket::parse(std::str::from_utf8(&bytes).unwrap()).is_err(),
                "changed at {at}"
            );
        }
        // One character, or more, at its end.
        for more in ["a", "x7", "abc", "abcdefgh"] {
            let longer = format!("{text}{more}");
            assert_eq!(Ticket::parse(&longer), Err(TicketError::Damaged), "{more}");
        }
        assert_eq!(Ticket::parse("hello"), Err(TicketError::NotATicket));
        assert_eq!(Ticket::parse(""), Err(TicketError::NotATicket));
        assert_eq!(
            Ticket::parse(&format!("{PREFIX}{}", "é".repeat(9))),
            Err(TicketError::Damaged)
        );
    }

    #[test]
    fn a_clock_that_is_a_day_ahead_does_not_expire_a_ticket() {
        let skew = i64::try_from(CLOCK_SKEW_MAX.as_millis()).unwrap();
        let ends = ticket().expires_at.0;
        assert!(!ticket().has_long_expired(Timestamp(ends + 24 * 60 * 60 * 1000)));
        assert!(!ticket().has_long_expired(Timestamp(ends + skew - 1)));
        assert!(ticket().has_long_expired(Timestamp(ends + skew)));
    }

    #[test]
    fn no_bytes_panic() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut bytes = vec![1, 0, (seed >> 40) as u8];
            bytes.extend((0..(seed >> 32) % 120).map(|n| (seed.rotate_left(n as u32) ^ n) as u8));
            let checksum = blake3::hash(&bytes);
            bytes.extend(&checksum.as_bytes()[..4]);
            let _ = Ticket::parse(&format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes)));
        }
    }
}
