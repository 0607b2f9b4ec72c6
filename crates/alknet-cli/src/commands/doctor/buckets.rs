//! Whether the directories of buckets can be used as configured.

use super::Check;
use crate::{
    commands::service,
    node_access::{self, Config},
};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::path::{Path, PathBuf};

const NAME: &str = "buckets";

/// One check for each bucket with something to say, or one for all of them.
pub(super) fn look(config: &Config, dir: &Path) -> Vec<Check> {
    let Ok(buckets) = node_access::buckets(config, dir) else {
        // Told with the configuration.
        return Vec::new();
    };
    let sandbox = service::sandbox(dir);
    let own = |path: &Path| path.starts_with(dir);
    let mut checks = Vec::new();
    let mut names = Vec::new();
    for bucket in buckets {
        names.push(bucket.name.clone());
        if own(&bucket.path) && !bucket.path.exists() {
            // The inbox is made at the first start.
            continue;
        }
        let said = problem(&bucket.name, &bucket.path, bucket.read_only);
        let said = said.or_else(|| {
            let sandbox = sandbox.as_ref()?;
            let is_open = own(&bucket.path) || covers(sandbox, &bucket.path);
            (!bucket.read_only && !is_open).then(|| {
                let message = format!(
                    "`{}`: the service cannot write to `{}`",
                    bucket.name,
                    bucket.path.display()
                );
                Check::warn(NAME, message).hint("alknet service install --system --force")
            })
        });
        checks.extend(said);
    }
    if checks.is_empty() {
        checks.push(match names.is_empty() {
            true => Check::ok(NAME, "none"),
            false => Check::ok(NAME, names.join(", ")),
        });
    }
    checks
}

/// As this account sees it, which should be the node's.
fn problem(name: &str, path: &Path, is_read_only: bool) -> Option<Check> {
    let shown = path.display();
    let Ok(found) = std::fs::metadata(path) else {
        let message = format!("`{name}`: there is no directory `{shown}`");
        return Some(Check::warn(NAME, message).hint("make it, or change `[[bucket]]`"));
    };
    if !found.is_dir() {
        let message = format!("`{name}`: `{shown}` is no directory");
        return Some(Check::warn(NAME, message).hint("change `[[bucket]]`"));
    }
    let may = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    if !may(Access::READ_OK | Access::EXEC_OK) {
        let message = format!("`{name}`: this account may not read `{shown}`");
        return Some(Check::warn(NAME, message).hint("the node's account needs to"));
    }
    if !is_read_only && !may(Access::WRITE_OK) {
        let message = format!("`{name}`: this account may not write to `{shown}`");
        return Some(
            Check::warn(NAME, message)
                .hint("the node's account needs to; or say `read_only = true`"),
        );
    }
    None
}

fn covers(open: &[PathBuf], path: &Path) -> bool {
    open.iter().any(|above| path.starts_with(above))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::Status, *};

    #[test]
    fn a_bucket_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::create_dir(dir.path().join("www")).unwrap();
        let data = dir.path().join("data");
        let at = |name: &str| {
            let path = dir.path().join(name);
            let text = format!(
                "[[bucket]]\nname = \"www\"\npath = \"{}\"\n",
                path.display()
            );
            let checks = look(
                &Config::parse(&text, Path::new("alknet.toml")).unwrap(),
                &data,
            );
            assert_eq!(checks.len(), 1);
            checks[0].clone()
        };
        assert_eq!(at("www").message, "inbox, www");
        for (name, says) in [
            ("none", "there is no directory"),
            ("file", "is no directory"),
        ] {
            let check = at(name);
            assert_eq!(check.status, Status::Warn);
            assert!(check.message.contains(says), "{}", check.message);
            assert!(check.message.contains("`www`"), "{}", check.message);
        }
    }
}
