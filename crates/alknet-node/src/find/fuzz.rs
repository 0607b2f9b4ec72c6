//! Decoders of what peers send, for the fuzzer.

use super::{
    exchange::{Ask, Offer},
    network::{Network, NetworkSecret},
    record::{AddressRecord, SignedRecord},
};
use alknet_core::storage::{PeerAddresses, Timestamp};
use iroh::SecretKey;
use std::{net::SocketAddr, sync::LazyLock};

fn network() -> &'static Network {
    static NETWORK: LazyLock<Network> =
        LazyLock::new(|| Network::new(NetworkSecret::from_bytes([1; 32])));
    &NETWORK
}

/// Any time of which a record is told to be; the judgement overflows for none.
fn judge(record: &AddressRecord, now: i64) {
    // Whether it counts is for the tests to say.
    let _ = record.judge(Timestamp(now));
}

/// Reads a record as it arrives: sealed if `sealed`, else as its sealing was
/// opened. Answers whether it was accepted, and with how many addresses.
///
/// # Panics
///
/// If an accepted record is not what its signature says, or a record that this
/// release makes is refused.
#[doc(hidden)]
#[must_use]
pub fn fuzz_record(bytes: &[u8], sealed: bool, now: i64) -> Option<usize> {
    let network = network();
    let parsed = match sealed {
        true => SignedRecord::open(bytes, network),
        false => SignedRecord::parse(bytes, &network.id),
    };
    // The same as the content of a record that is signed by whom it names.
    if let Ok((record, [])) = postcard::take_from_bytes::<AddressRecord>(bytes)
        && !sealed
    {
        let key = SecretKey::from_bytes(&[3; 32]);
        let places = PeerAddresses {
            direct: record.addresses,
            relays: record.relays,
        };
        let own = AddressRecord::new(*key.public().as_bytes(), record.sequence, &places);
        judge(&own, now);
        let signed = own.sign(&key, &network.id);
        let read = SignedRecord::parse(&signed.bytes, &network.id);
        assert_eq!(read.as_ref(), Ok(&signed));
    }
    let signed = parsed.ok()?;
    judge(&signed.record, now);
    assert_eq!(
        SignedRecord::parse(&signed.bytes, &network.id).as_ref(),
        Ok(&signed)
    );
    Some(signed.record.addresses.len())
}

/// A sealed record of this release, a signed one, and its content: what the
/// fuzzer begins with.
#[doc(hidden)]
#[must_use]
pub fn fuzz_record_seeds() -> [Vec<u8>; 3] {
    let (key, network) = (SecretKey::from_bytes(&[3; 32]), network());
    let places = PeerAddresses {
        direct: vec![SocketAddr::from(([192, 0, 2, 1], 4433))],
        relays: vec!["https://relay.example.org/".into()],
    };
    let record = AddressRecord::new(*key.public().as_bytes(), 1_790_000_000_000, &places);
    let content = postcard::to_stdvec(&record).unwrap_or_default();
    let signed = record.sign(&key, &network.id);
    let sealed = signed.seal(network).unwrap_or_default();
    [sealed, signed.bytes, content]
}

/// Reads an ask, or an offer, as it arrives; answers how many nodes or records
/// it names.
///
/// # Panics
///
/// If one that is accepted does not read back as it was written.
#[doc(hidden)]
#[must_use]
pub fn fuzz_exchange(bytes: &[u8], is_ask: bool) -> Option<usize> {
    if is_ask {
        let ask = Ask::parse(bytes).ok()?;
        let written = postcard::to_stdvec(&ask).unwrap_or_default();
        assert_eq!(Ask::parse(&written).ok().as_ref(), Some(&ask));
        return Some(ask.networks.iter().map(|one| one.newer_than.len()).sum());
    }
    let offer = Offer::parse(bytes).ok()?;
    let written = postcard::to_stdvec(&offer).unwrap_or_default();
    assert_eq!(Offer::parse(&written).ok().as_ref(), Some(&offer));
    Some(offer.records.len())
}
