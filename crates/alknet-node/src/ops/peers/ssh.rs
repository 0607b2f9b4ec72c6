//! SSH keys and authorities of a peer, as they are given.

use super::SshCaInput;
use alknet_core::{
    CallError, ErrorCode, PeerId, SshPublicKey,
    storage::{PeerRecord, SshAuthority, SshKey},
};
use serde_json::json;

/// SSH keys and principals of authorities that a peer may have.
const PER_PEER_MAX: usize = 64;
/// Longest principal, in bytes.
const PRINCIPAL_BYTES_MAX: usize = 64;

/// Adds what is given to what the peer has; what it has already stays once.
pub(super) fn add(
    record: &mut PeerRecord,
    keys: &[String],
    authorities: &[SshCaInput],
) -> Result<(), CallError> {
    for (at, text) in keys.iter().enumerate() {
        let key = parse(text, &format!("/ssh_keys/{at}"))?;
        let key = SshKey {
            fingerprint: key.fingerprint(),
            public_key: Some(key.to_string()),
            comment: key.comment().map(Into::into),
        };
        record
            .ssh_keys
            .retain(|held| held.fingerprint != key.fingerprint);
        record.ssh_keys.insert(key);
    }
    for (at, given) in authorities.iter().enumerate() {
        let pointer = format!("/ssh_cas/{at}");
        let key = parse(&given.public_key, &format!("{pointer}/public_key"))?;
        for principal in principals(&record.id, given, &pointer)? {
            let new = SshAuthority {
                fingerprint: key.fingerprint(),
                principal,
                public_key: key.to_string(),
                comment: key.comment().map(Into::into),
            };
            record.ssh_authorities.retain(|held| {
                (&held.fingerprint, &held.principal) != (&new.fingerprint, &new.principal)
            });
            record.ssh_authorities.insert(new);
        }
    }
    if record.ssh_keys.len() + record.ssh_authorities.len() > PER_PEER_MAX {
        let message = format!(
            "`{}` would have more than {PER_PEER_MAX} SSH keys and principals, which is the limit",
            record.id
        );
        return Err(CallError::new(ErrorCode::Conflict, message));
    }
    Ok(())
}

/// Takes keys and authorities away, by their fingerprints.
pub(super) fn remove(record: &mut PeerRecord, fingerprints: &[String]) -> Result<(), CallError> {
    for (at, fingerprint) in fingerprints.iter().enumerate() {
        let before = record.ssh_keys.len() + record.ssh_authorities.len();
        record
            .ssh_keys
            .retain(|key| key.fingerprint != *fingerprint);
        record
            .ssh_authorities
            .retain(|held| held.fingerprint != *fingerprint);
        if record.ssh_keys.len() + record.ssh_authorities.len() == before {
            let message = format!(
                "`{}` has no SSH key or authority with this fingerprint",
                record.id
            );
            return Err(CallError::invalid_field(
                format!("/remove_ssh/{at}"),
                message,
            ));
        }
    }
    Ok(())
}

fn parse(text: &str, pointer: &str) -> Result<SshPublicKey, CallError> {
    SshPublicKey::parse(text).map_err(|error| CallError::invalid_field(pointer, error.to_string()))
}

fn principals(peer: &PeerId, given: &SshCaInput, pointer: &str) -> Result<Vec<String>, CallError> {
    if given.principals.is_empty() {
        return Ok(vec![peer.to_string()]);
    }
    for (at, principal) in given.principals.iter().enumerate() {
        let is_fine = !principal.is_empty()
            && principal.len() <= PRINCIPAL_BYTES_MAX
            && !principal.contains(|c: char| c.is_control() || c.is_whitespace() || c == ',');
        if !is_fine {
            let message = format!(
                "a principal is 1 to {PRINCIPAL_BYTES_MAX} bytes without spaces and commas"
            );
            let error = CallError::invalid_field(format!("{pointer}/principals/{at}"), message);
            return Err(error.with_details(json!({ "principal": principal })));
        }
    }
    Ok(given.principals.clone())
}
