//! What a configuration of buckets may say.

use alknet_fs::{BucketConfig, ByteSize, FilesConfig, FilesConfigError};
use serde::Deserialize;
use std::{fs, path::Path};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    files: FilesConfig,
    #[serde(default)]
    bucket: Vec<BucketConfig>,
}

/// Reads and checks it, for a node whose data is in `data`.
fn checked(text: &str, data: &Path) -> Result<Vec<BucketConfig>, String> {
    let whole: Whole = toml::from_str(text).map_err(|error| error.to_string())?;
    let buckets = whole.files.buckets(&whole.bucket, data);
    buckets.map_err(|error| match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    })
}

#[track_caller]
fn refuses(text: &str, want: &str) {
    let told = checked(text, Path::new("/nowhere/data")).unwrap_err();
    assert!(told.contains(want), "{told}");
}

#[test]
fn every_field_is_read() {
    let text = r#"
        [files]
        inbox = false
        partials_kept = "1h30m"
        [[bucket]]
        name = "www"
        path = "/var/www"
        read_only = true
        quota = "10GB"
        quota_entries = 1000
        keep_free = 1048576
    "#;
    let buckets = checked(text, Path::new("/nowhere/data")).unwrap();
    let mut want = BucketConfig::new("www", "/var/www");
    want.read_only = true;
    want.quota = Some(ByteSize::new(10_000_000_000));
    want.quota_entries = Some(1000);
    want.keep_free = ByteSize::new(1 << 20);
    assert_eq!(buckets, [want]);
}

#[test]
fn nothing_configured_is_an_inbox() {
    let buckets = checked("", Path::new("/nowhere/data")).unwrap();
    assert_eq!(buckets, [BucketConfig::new("inbox", "/nowhere/data/inbox")]);
    let own = "[[bucket]]\nname = 'inbox'\npath = '/srv/in'";
    let buckets = checked(own, Path::new("/nowhere/data")).unwrap();
    assert_eq!(buckets, [BucketConfig::new("inbox", "/srv/in")]);
    assert_eq!(buckets[0].keep_free.to_string(), "64MiB");
}

#[test]
fn mistakes_are_named_with_their_bucket() {
    let bucket = |more: &str| format!("[[bucket]]\nname = 'www'\npath = '/var/www'\n{more}");
    refuses(
        "[[bucket]]\nname = 'Www'\npath = '/w'",
        "bucket `Www` cannot have that name",
    );
    refuses(
        "[[bucket]]\nname = 'www@dev'\npath = '/w'",
        "bucket `www@dev` cannot have that name",
    );
    refuses(
        "[[bucket]]\nname = ''\npath = '/w'",
        "bucket `` cannot have that name",
    );
    refuses(
        "[[bucket]]\nname = 'www'\npath = 'var'",
        "bucket `www` has the path `var`, which is not absolute\nhint: write the whole path",
    );
    refuses(
        &bucket("quota = 0"),
        "bucket `www` has `quota` 0, under which nothing could be written\nhint: `read_only = true`",
    );
    refuses(
        &bucket("quota_entries = 0"),
        "bucket `www` has `quota_entries` 0",
    );
    refuses(
        &bucket("quota = '10G'"),
        "`10G` is not a number of bytes: write it with a unit, such as `10GB` or `512MiB`",
    );
    refuses(&bucket("quota = -1"), "`-1` is not a number of bytes");
    refuses(
        &bucket("quota = true"),
        "expected a number of bytes, such as `10GB`, `512MiB` or 1000000",
    );
    refuses(&bucket("readonly = true"), "unknown field `readonly`");
    refuses(
        "[files]\ninbox = false\nkept = '7d'",
        "unknown field `kept`",
    );
    refuses(
        &format!("{}{}", bucket(""), bucket("")),
        "bucket `www` is configured twice",
    );
}

#[test]
fn the_data_of_the_node_is_no_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
    for path in [
        "data",
        "data/inbox",
        "data/new/deep",
        "link",
        "link/logs",
        "link/../data",
    ] {
        let bucket = BucketConfig::new("www", dir.path().join(path));
        let told = FilesConfig::default().buckets(&[bucket], &data);
        assert!(
            matches!(told, Err(FilesConfigError::OwnData { .. })),
            "{path}: {told:?}"
        );
    }
    let mut inbox = BucketConfig::new("inbox", data.join("inbox"));
    inbox.quota = Some(ByteSize::new(1));
    assert!(FilesConfig::default().buckets(&[inbox], &data).is_ok());
    let above = BucketConfig::new("all", dir.path());
    assert!(FilesConfig::default().buckets(&[above], &data).is_ok());
}

#[test]
fn a_configuration_reads_back() {
    let mut bucket = BucketConfig::new("www", "/var/www");
    bucket.quota = Some(ByteSize::new(3 << 30));
    let text = toml::to_string(&bucket).unwrap();
    assert!(text.contains("quota = \"3GiB\""), "{text}");
    assert_eq!(toml::from_str::<BucketConfig>(&text).unwrap(), bucket);
}
