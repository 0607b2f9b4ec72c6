//! A backup, which may come from anywhere.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_node::backup::{Needs, fuzz_backup};

pub(super) const BACKUPS: Target = Target {
    name: "backups",
    about: "A backup names only files that one has, and is as long as it says.",
    run: backups,
    seeds: || {
        let whole = format!(
            "{}{}",
            head("words", &[("port", 3), ("alknet.db", 4)]),
            "123abcd"
        );
        let sealed = head("passphrase", &[("vault.json", 2), ("alknet.db", 1)]);
        vec![
            [&[1], whole.as_bytes()].concat(),
            [&[1], sealed.as_bytes(), b"{}x"].concat(),
            [&[0], whole.as_bytes()].concat(),
            b"\0alknet-backup 2\n".to_vec(),
            b"\0alknet-backup 1\n".to_vec(),
            b"\x01alknet-backup 1\n{}\n".to_vec(),
            b"\0SQLite format 3\0".to_vec(),
        ]
    },
    tokens: &[
        b"alknet-backup 1\n",
        b"\"files\":[",
        b"{\"name\":\"alknet.db\",\"bytes\":1}",
        b"{\"name\":\"../alknet.toml\",\"bytes\":1}",
        b"{\"name\":\"owner.key\",\"bytes\":0}",
        b"18446744073709551615",
        b"\"needs\":\"words\"",
        b"\n",
        b",",
        b"[[[[[[[[",
    ],
    bytes_max: 1_500,
    held_max: MIB,
};

/// The first two lines of a backup.
fn head(needs: &str, files: &[(&str, u64)]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|(name, bytes)| format!(r#"{{"name":"{name}","bytes":{bytes}}}"#))
        .collect();
    format!(
        "alknet-backup 1\n{{\"format\":1,\"node_id\":\"{}\",\"name\":\"home\",\"release\":\"0.1.0\",\
         \"taken_at\":\"2026-01-01T00:00:00.000Z\",\"store_format\":3,\"needs\":\"{needs}\",\
         \"key_file\":true,\"files\":[{}]}}\n",
        "07".repeat(32),
        files.join(",")
    )
}

fn backups(data: &[u8]) {
    let mut source = Source::new(data);
    let sealed = source.below(2) == 1;
    let Some((header, bytes)) = fuzz_backup(source.rest(), sealed) else {
        return note("refused");
    };
    let known = ["alknet.toml", "port", "vault.json", "alknet.db"];
    let names: Vec<&str> = header.files.iter().map(|file| file.name.as_str()).collect();
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    assert_eq!(names.last(), Some(&"alknet.db"));
    let is_sealed = names.contains(&"vault.json");
    assert_eq!(is_sealed, header.needs == Needs::Passphrase);
    let told: u64 = header.files.iter().map(|file| file.bytes).sum();
    assert_eq!(told, bytes);
    note((names.len(), is_sealed));
}
