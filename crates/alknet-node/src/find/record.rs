//! Address records: where a node says that it can be reached, signed by its
//! key, sealed for its network.

use super::network::{Network, NetworkId, SEALING_BYTES};
use crate::ticket::{ADDRESSES_MAX, CLOCK_SKEW_MAX, RELAYS_MAX};
use alknet_core::storage::{PeerAddresses, Timestamp};
use iroh::{EndpointId, SecretKey, Signature};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// Most bytes of a sealed record.
pub(crate) const RECORD_BYTES_MAX: usize = 4096;
/// How long a record counts, unless a newer one comes.
pub(crate) const RECORD_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// How far in the future a record may be dated: as far as clocks may differ.
pub(crate) const RECORD_AHEAD_MAX: Duration = CLOCK_SKEW_MAX;
/// Bytes of a signature (RFC 8032, 5.1.6).
const SIGNATURE_BYTES: usize = 64;
/// Before what is signed, so that a signature means nothing anywhere else.
const DOMAIN: &[u8] = b"alknet 2026 address record\0";

/// Where a node says that it can be reached (postcard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRecord {
    /// Its public key.
    pub(crate) node_id: [u8; 32],
    /// Milliseconds since 1970 by its clock, and more than in its last one.
    pub(crate) sequence: u64,
    /// UDP addresses.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Relays, as texts.
    pub(crate) relays: Vec<String>,
    /// When it stops to count, in milliseconds since 1970.
    pub(crate) expires_at: i64,
    /// Fields of later releases: an unknown even id refuses the record, an
    /// unknown odd one is ignored.
    ext: Vec<(u16, Vec<u8>)>,
}

/// A record and its signature, as they were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedRecord {
    pub(crate) record: AddressRecord,
    /// The record's own encoding, then the signature.
    pub(crate) bytes: Vec<u8>,
}

/// Why a record does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RecordError {
    /// More than [`RECORD_BYTES_MAX`].
    #[error("it is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
    /// Not sealed for this network, or changed on the way.
    #[error("it is not sealed for this network")]
    NotSealed,
    /// It does not decode, or says more than records may.
    #[error("it is malformed")]
    Malformed,
    /// It was not signed by the key it names, for this network.
    #[error("it is not signed by the node that it describes")]
    Forged,
    /// It was dated in the future.
    #[error("it is dated too far in the future")]
    Ahead,
    /// It counts no longer.
    #[error("it has expired")]
    Expired,
    /// It would count longer than records may.
    #[error("it claims to count for longer than records may")]
    LivesTooLong,
    /// A newer one is known, or the same.
    #[error("it is not newer than the one known")]
    Old,
    /// It counts, and could not be stored.
    #[error("it could not be stored")]
    NotKept,
    /// It describes nobody whom this node knows.
    #[error("it is not about a peer")]
    Stranger,
}

impl AddressRecord {
    /// A record of these places, as of `sequence`.
    pub(crate) fn new(node_id: [u8; 32], sequence: u64, places: &PeerAddresses) -> Self {
        let made = Timestamp(i64::try_from(sequence).unwrap_or(i64::MAX));
        Self {
            node_id,
            sequence,
            addresses: places.direct.iter().copied().take(ADDRESSES_MAX).collect(),
            relays: places.relays.iter().take(RELAYS_MAX).cloned().collect(),
            expires_at: made.plus(RECORD_LIFETIME).0,
            ext: Vec::new(),
        }
    }

    /// Signs it for one network.
    pub(crate) fn sign(self, key: &SecretKey, network: &NetworkId) -> SignedRecord {
        // Numbers, texts and lists always encode.
        let mut bytes = postcard::to_stdvec(&self).unwrap_or_default();
        let signature = key.sign(&signed_text(network, &bytes));
        bytes.extend(signature.to_bytes());
        SignedRecord {
            record: self,
            bytes,
        }
    }

    /// Whether it counts now, by itself.
    pub(crate) fn judge(&self, now: Timestamp) -> Result<(), RecordError> {
        let made = i64::try_from(self.sequence).map_err(|_| RecordError::Ahead)?;
        if made > now.plus(RECORD_AHEAD_MAX).0 {
            return Err(RecordError::Ahead);
        }
        if self.expires_at > Timestamp(made).plus(RECORD_LIFETIME).0 {
            return Err(RecordError::LivesTooLong);
        }
        if self.expires_at <= now.0 {
            return Err(RecordError::Expired);
        }
        Ok(())
    }
}

impl SignedRecord {
    /// Reads a record and checks who signed it.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] or [`RecordError::Forged`].
    pub(crate) fn parse(bytes: &[u8], network: &NetworkId) -> Result<Self, RecordError> {
        let body = bytes
            .len()
            .checked_sub(SIGNATURE_BYTES)
            .ok_or(RecordError::Malformed)?;
        let (body, signature) = bytes.split_at(body);
        let (record, rest): (AddressRecord, _) =
            postcard::take_from_bytes(body).map_err(|_| RecordError::Malformed)?;
        let too_much = record.addresses.len() > ADDRESSES_MAX
            || record.relays.len() > RELAYS_MAX
            || record.ext.iter().any(|(id, _)| id % 2 == 0);
        if !rest.is_empty() || too_much {
            return Err(RecordError::Malformed);
        }
        let key = EndpointId::from_bytes(&record.node_id).map_err(|_| RecordError::Forged)?;
        let signature = Signature::try_from(signature).map_err(|_| RecordError::Forged)?;
        key.verify(&signed_text(network, body), &signature)
            .map_err(|_| RecordError::Forged)?;
        Ok(Self {
            record,
            bytes: bytes.to_vec(),
        })
    }

    /// Opens a record that was sealed for `network`, and checks who signed it.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: too long, not sealed, malformed or forged.
    pub(crate) fn open(sealed: &[u8], network: &Network) -> Result<Self, RecordError> {
        if sealed.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong);
        }
        let bytes = network.open(sealed).map_err(|_| RecordError::NotSealed)?;
        Self::parse(&bytes, &network.id)
    }

    /// Seals it for the members of `network`; `None` if it is longer than
    /// records may be.
    pub(crate) fn seal(&self, network: &Network) -> Option<Vec<u8>> {
        let fits = self.bytes.len() + SEALING_BYTES <= RECORD_BYTES_MAX;
        fits.then(|| network.seal(&self.bytes))
    }
}

fn signed_text(network: &NetworkId, body: &[u8]) -> Vec<u8> {
    [DOMAIN, network, body].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::network::NetworkSecret, *};

    const NOW: i64 = 1_790_000_000_000;
    const DAY: i64 = 24 * 3_600_000;

    fn network() -> Network {
        Network::new(NetworkSecret::from_bytes([1; 32]))
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[3; 32])
    }

    fn record(made: i64) -> AddressRecord {
        let places = PeerAddresses {
            direct: vec!["192.0.2.1:4433".parse().unwrap()],
            relays: vec!["https://relay.example.org/".into()],
        };
        AddressRecord::new(*key().public().as_bytes(), made as u64, &places)
    }

    #[track_caller]
    fn judged(record: &AddressRecord, want: Result<(), RecordError>) {
        assert_eq!(record.judge(Timestamp(NOW)), want);
    }

    #[test]
    fn a_record_reads_back_and_only_its_own_network_and_key_make_it() {
        let signed = record(NOW).sign(&key(), &network().id);
        let sealed = signed.seal(&network()).unwrap();
        assert_eq!(SignedRecord::open(&sealed, &network()).unwrap(), signed);
        // A member of another network who took it there.
        let other = Network::new(NetworkSecret::from_bytes([2; 32]));
        let taken = signed.seal(&other).unwrap();
        let opened = SignedRecord::open(&taken, &other);
        assert_eq!(opened, Err(RecordError::Forged));
        // A member who signs for somebody else.
        let forged = record(NOW).sign(&SecretKey::from_bytes(&[4; 32]), &network().id);
        let opened = SignedRecord::open(&forged.seal(&network()).unwrap(), &network());
        assert_eq!(opened, Err(RecordError::Forged));
        // Nobody of the network.
        let opened = SignedRecord::open(&signed.bytes, &network());
        assert_eq!(opened, Err(RecordError::NotSealed));
    }

    #[test]
    fn every_changed_byte_of_a_signed_record_is_noticed() {
        let signed = record(NOW).sign(&key(), &network().id);
        for at in 0..signed.bytes.len() {
            let mut bytes = signed.bytes.clone();
            bytes[at] ^= 1;
            assert!(
                SignedRecord::parse(&bytes, &network().id).is_err(),
                "byte {at}"
            );
            let cut = &signed.bytes[..at];
            assert!(
                SignedRecord::parse(cut, &network().id).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_record_is_at_most_4_kib_sealed() {
        let long = |bytes: usize| {
            let mut record = record(NOW);
            record.relays = vec!["r".repeat(bytes)];
            record.sign(&key(), &network().id)
        };
        let spare = RECORD_BYTES_MAX - SEALING_BYTES - long(1000).bytes.len();
        let largest = long(1000 + spare);
        let sealed = largest.seal(&network()).unwrap();
        assert_eq!(sealed.len(), RECORD_BYTES_MAX);
        assert!(SignedRecord::open(&sealed, &network()).is_ok());
        let larger = long(1001 + spare);
        assert_eq!(larger.seal(&network()), None);
        let sealed = network().seal(&larger.bytes);
        let opened = SignedRecord::open(&sealed, &network());
        assert_eq!(opened, Err(RecordError::TooLong));
    }

    #[test]
    fn a_record_counts_for_two_weeks_and_not_from_the_future() {
        let ahead = RECORD_AHEAD_MAX.as_millis() as i64;
        judged(&record(NOW), Ok(()));
        judged(&record(NOW + ahead), Ok(()));
        judged(&record(NOW + ahead + 1), Err(RecordError::Ahead));
        judged(&record(NOW - 14 * DAY + 1), Ok(()));
        judged(&record(NOW - 14 * DAY), Err(RecordError::Expired));
        let mut eternal = record(NOW);
        eternal.expires_at += 1;
        judged(&eternal, Err(RecordError::LivesTooLong));
        let mut far = record(NOW);
        far.sequence = u64::MAX;
        judged(&far, Err(RecordError::Ahead));
    }

    #[test]
    fn more_places_than_a_record_may_have_are_refused() {
        for (addresses, relays, ext) in
            [(ADDRESSES_MAX + 1, 0, 1), (0, RELAYS_MAX + 1, 1), (0, 0, 2)]
        {
            let mut record = record(NOW);
            record.addresses = vec!["192.0.2.1:1".parse().unwrap(); addresses];
            record.relays = vec!["https://a/".into(); relays];
            record.ext = vec![(ext, Vec::new())];
            let signed = record.sign(&key(), &network().id);
            let parsed = SignedRecord::parse(&signed.bytes, &network().id);
            assert_eq!(parsed, Err(RecordError::Malformed));
        }
        let mut later = record(NOW);
        later.ext = vec![(1, vec![5])];
        let signed = later.sign(&key(), &network().id);
        assert!(SignedRecord::parse(&signed.bytes, &network().id).is_ok());
    }
}
