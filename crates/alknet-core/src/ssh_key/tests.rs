#![allow(clippy::unwrap_used)]
//! Keys made by OpenSSH 9 for this test and thrown away; the fingerprints are
//! those that `ssh-keygen -l` prints.

use super::*;

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDcsEJaut3dDTUAS6ZAk6B3ZS8wn5MYaYcLY0miUew8j ada@laptop";
const P256: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMC2NcSh9OLbOGnPYE4fbDQFQU940DLLQ37RoyTM2t8KQ/rgmwhwIAEVReCJvZJI4v8LfEx9RWIQQ6Wwj9OYAkI= ada@laptop";
const P384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBIGq4P0VVSqMEw4/WLcyLv2KjY1CHmJC1hu/O2NgZpwo82gJPQxndXLaSpNFTSYnD3sDBoijhWLOq79XLiaXXNF5NzmPXPaKzCdU40S+2dMg6K0SDuYPRLsqQ78GRBm9nQ== ada@laptop";
const P521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAGdVfGWUMGQeWeNIoHBtleQWWqKLEX5W2+OF3cOz6+2YXuF5V1DrSl2Q0TZsXj+xF3KM1WKFjZVqzqVnzAfq8H6MgFuxvWwzPGWB8YXjTomTOQKeOj4HKeryxfHbMgvG96BRp++e5E7tErIZ7gIQ2Uma9/yDjmabzcN5OFdA4Ez02U6NQ== ada@laptop";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCuPUfXfxJOObs8Oxj0SLmt+Hl8QFgbjaSfGqNOHvfD31zxCYDYkjDKzQ0i4xFCX8RhwMPsg0eAIaN/CO++TCLVljd4LCGEWtXsibF6Rii62wbwtX8WBZEiBWknxmzCCboiqVmW+LXKTLfoU3v0rZWHTbFmiXd72lY+CK3L7lodVE8WbDrrhIsEC5G9fbFZWUeK2Yfm9O7VMzuv/navTCFnzdxKDD63fZ9atsQrdHx13wQu7witK1VsWlOD3ZUGNmppTjGpcvU4tbkXVizDNrNPdj/ZmKGCSfZVpupQO+sIRjt11SKWCrogyl2cnhcZ5pca4bf8Ov0sIlx2knQNMevJ ada@laptop";
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC0ZkRW7xHgJWRX/dsFm88Z0/zA8mSOAdEr2eT3V+QIcEcCRIJXKnPaY5HQ6DPFStK/qR9c+IYn56udZi2/w4ODQUbFviGexcNVLWzIkxllCgLfravQJOxafbgMEB8xjaA7ZIEvCtt+eM/BdpqDYufsHcVnN+X801bADL4VVMqHyw== ada@laptop";

#[test]
fn keys_have_the_fingerprint_that_openssh_prints() {
    for (text, fingerprint) in [
        (
            ED25519,
            "SHA256:0EVOfjcrWjiYAx/EHOVh4+cXGo3/W6xkEP8t9sBRd/o",
        ),
        (P256, "SHA256:yd/0FRlVGVSXN068ByxwZiWFAIXCYwdDxIyjtJihD3U"),
        (P384, "SHA256:LFvt7GQyxu69AP+DN0+R9Fmnj4V53CAihspqIzubQMs"),
        (P521, "SHA256:GovsTCzceZrRhUmQLVI1UWf3IbQuGCIrcsNCWlfpjAk"),
        (RSA, "SHA256:WsO70HAlWNVUTo6tGAeCutAKIKI1rcxrBH/SXTJZQGM"),
    ] {
        let key = SshPublicKey::parse(text).unwrap();
        assert_eq!(key.fingerprint(), fingerprint);
        assert_eq!(key.comment(), Some("ada@laptop"));
        assert_eq!(format!("{key} ada@laptop"), text);
        assert_eq!(
            SshPublicKey::parse(&key.to_string()).unwrap().comment(),
            None
        );
    }
}

/// The key of a security token, which keeps the application beside it.
#[test]
fn keys_of_hardware_are_taken() {
    let field = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let point = [&[4_u8][..], &[7; 64]].concat();
    for (kind, fields) in [
        ("sk-ssh-ed25519@openssh.com", vec![field(&[7; 32])]),
        (
            "sk-ecdsa-sha2-nistp256@openssh.com",
            vec![field(b"nistp256"), field(&point)],
        ),
    ] {
        let blob = [field(kind.as_bytes()), fields.concat(), field(b"ssh:")].concat();
        let line = format!("{kind} {}", BASE64.encode(&blob));
        assert_eq!(SshPublicKey::parse(&line).unwrap().kind(), kind);
    }
}

#[track_caller]
fn refused(text: &str) -> SshKeyError {
    SshPublicKey::parse(text).unwrap_err()
}

#[test]
fn a_private_key_is_refused_before_anything_else() {
    for text in [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n"
            .to_owned(),
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n".to_owned(),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n".to_owned(),
        "PuTTY-User-Key-File-3: ssh-ed25519\n".to_owned(),
        format!("{ED25519}\n-----BEGIN PRIVATE KEY-----\nMC4C\n"),
    ] {
        assert_eq!(refused(&text), SshKeyError::Private, "{text}");
    }
}

#[test]
fn what_is_not_one_good_key_is_told_apart() {
    assert_eq!(refused(""), SshKeyError::Missing);
    assert_eq!(refused("# nothing but this\n\n"), SshKeyError::Missing);
    let two = format!("{ED25519}\n\n{RSA}\n");
    assert_eq!(refused(&two), SshKeyError::Several { found: 2 });
    let options = format!("command=\"/bin/true\",no-pty {ED25519}");
    assert_eq!(refused(&options), SshKeyError::Options);
    let certificate = ED25519.replacen("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1);
    assert_eq!(refused(&certificate), SshKeyError::Certificate);
    assert!(matches!(
        refused("ssh-new AAAA"),
        SshKeyError::UnknownType { kind } if kind == "ssh-new"
    ));
    assert!(matches!(refused("ssh-dss AAAA"), SshKeyError::Weak { .. }));
    let SshKeyError::Weak { reason } = refused(RSA_1024) else {
        panic!("a key of 1024 bits was taken");
    };
    assert!(reason.contains("1024 bits"), "{reason}");
    let long = "#".repeat(SSH_KEY_TEXT_BYTES_MAX + 1);
    assert_eq!(refused(&long), SshKeyError::TooLong);
}

#[test]
fn a_key_that_is_not_what_its_line_says_is_damaged() {
    let blob = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    for text in [
        "ssh-ed25519".to_owned(),
        "ssh-ed25519 !!!!".to_owned(),
        format!("ssh-ed25519 {}", blob(P256)),
        format!("ecdsa-sha2-nistp384 {}", blob(P256)),
        format!("ssh-ed25519 {}", &blob(ED25519)[..40]),
        // Something more behind the key.
        format!("ssh-ed25519 {}AAAA", blob(ED25519)),
    ] {
        assert!(
            matches!(refused(&text), SshKeyError::Damaged { .. }),
            "{text}"
        );
    }
}

#[test]
fn lines_around_the_key_are_passed_over_and_the_comment_is_clean() {
    let text = format!("\u{feff}# of the laptop\n\r\n  {ED25519} \u{202e}x\u{7}  \r\n")
        .replace('\u{feff}', "");
    let key = SshPublicKey::parse(&text).unwrap();
    assert_eq!(key.comment(), Some("ada@laptop x"));
}

#[test]
fn changed_bytes_never_panic() {
    // A small generator of its own: the same changes in every run.
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize
    };
    for text in [ED25519, P256, RSA] {
        for _ in 0..2_000 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..1 + next() % 3 {
                let at = next() % bytes.len().max(1);
                match next() % 3 {
                    _ if bytes.is_empty() => {}
                    0 => bytes[at] = u8::try_from(next() % 256).unwrap(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            // Whatever comes of it: no panic, and what is taken reads back.
            if let Ok(key) = SshPublicKey::parse(&String::from_utf8_lossy(&bytes)) {
                let again = SshPublicKey::parse(&key.to_string()).unwrap();
                assert_eq!(again.fingerprint(), key.fingerprint());
            }
        }
    }
}
