//! What the database tells: whose it is, what expires, how it has been.

use super::Check;
use crate::{
    duration,
    node_access::{self, Facts, Findings, Timestamp, backup},
};
use std::{path::Path, time::Duration};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// What ends so soon is worth a word.
const SOON: Duration = DAY.saturating_mul(7);
/// How far back crashes count.
const LATELY: Duration = DAY.saturating_mul(7);
/// A backup older than this is worth a word.
const BACKUP_OLD: Duration = DAY.saturating_mul(30);

/// Everything that the database tells. Blocks.
pub(super) fn look(dir: &Path, now: Timestamp, node_id: Option<&str>) -> Vec<Check> {
    let before = |ago: Duration| Timestamp(now.0.saturating_sub(millis(ago)));
    match node_access::inspect(dir, now, now.plus(SOON), before(LATELY)) {
        Ok(Some(facts)) => tell(&facts, node_id),
        // What is wrong with it, `database` says.
        Ok(None) | Err(Findings { .. }) => Vec::new(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn tell(facts: &Facts, node_id: Option<&str>) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(identity(facts.node.as_deref(), node_id));
    checks.push(expiring(
        "peers",
        facts.peers,
        &facts.peers_expired,
        &facts.peers_expiring,
        "alknet peers update PEER --access-for 30d, or alknet peers remove PEER",
    ));
    checks.push(expiring(
        "API keys",
        facts.keys,
        &facts.keys_expired,
        &facts.keys_expiring,
        "alknet keys create, and alknet keys revoke for the old one",
    ));
    checks.push(Check::ok(
        "invites",
        format!("{} can be used", facts.invites_open),
    ));
    checks.push(match facts.bans {
        0 => Check::ok("bans", "none in force"),
        bans => Check::ok("bans", format!("{bans} in force")).hint("alknet bans list"),
    });
    checks.push(match facts.unclean_starts {
        0 => Check::ok("crashes", "none in the last 7 days"),
        crashes => Check::warn("crashes", format!("{crashes} in the last 7 days"))
            .hint("alknet audit --operation node/start; then look into the log of that time"),
    });
    checks
}

/// Whether the keys are those that the database was written with; no check if
/// either is not known.
fn identity(database: Option<&str>, keys: Option<&str>) -> Option<Check> {
    let (database, keys) = (database?, keys?);
    Some(match database == keys {
        true => Check::ok("identity", "keys and database are of one node"),
        false => Check::fail(
            "identity",
            format!("the keys are of node {keys}, the database was written by {database}"),
        )
        .hint("put back the vault that belongs to this database, from a backup of the directory"),
    })
}

fn expiring(
    name: &'static str,
    count: u64,
    expired: &[String],
    expiring: &[String],
    hint: &str,
) -> Check {
    let list = |names: &[String]| {
        let shown = names.iter().take(3).map(String::as_str);
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if names.len() > 3 {
            text.push_str(&format!(" and {} more", names.len() - 3));
        }
        text
    };
    let mut said = Vec::new();
    if !expired.is_empty() {
        said.push(format!("expired: {}", list(expired)));
    }
    if !expiring.is_empty() {
        said.push(format!("expiring within 7 days: {}", list(expiring)));
    }
    match said.is_empty() {
        true => Check::ok(name, format!("{count}, none about to expire")),
        false => Check::warn(name, format!("{count}; {}", said.join("; "))).hint(hint),
    }
}

/// How old the last backup is that this directory knows of.
pub(super) fn last_backup(dir: &Path, now: Timestamp) -> Check {
    aged(backup::last_backup(dir), now)
}

fn aged(at: Option<Timestamp>, now: Timestamp) -> Check {
    const NAME: &str = "backup";
    let hint = "alknet backup FILE, to another disk";
    let Some(at) = at else {
        return Check::warn(NAME, "none was ever taken here").hint(hint);
    };
    let age = u64::try_from(now.0.saturating_sub(at.0)).unwrap_or(0);
    let age = Duration::from_millis(age);
    // Minutes say enough.
    let told = Duration::from_secs(age.as_secs() / 60 * 60);
    let message = match told.is_zero() {
        true => "the last one is a moment old".to_owned(),
        false => format!("the last one is {} old", duration::in_words(told)),
    };
    match age > BACKUP_OLD {
        true => Check::warn(NAME, message).hint(hint),
        false => Check::ok(NAME, message),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn keys_of_another_node_fail() {
        let status = |database, keys| identity(database, keys).map(|check| check.status);
        assert_eq!(status(Some("a"), Some("a")), Some(Status::Ok));
        assert_eq!(status(Some("a"), Some("b")), Some(Status::Fail));
        assert_eq!(
            [status(None, Some("a")), status(Some("a"), None)],
            [None, None]
        );
    }

    #[test]
    fn what_expires_is_named_up_to_three() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        let check = expiring("peers", 9, &names, &names[..1], "hint");
        assert_eq!(check.status, Status::Warn);
        assert_eq!(
            check.message,
            "9; expired: a, b, c and 1 more; expiring within 7 days: a"
        );
        assert_eq!(expiring("peers", 9, &[], &[], "hint").status, Status::Ok);
    }

    #[test]
    fn an_old_backup_and_none_are_worth_a_word() {
        let now = Timestamp(0).plus(BACKUP_OLD);
        let status = |at| aged(at, now).status;
        assert_eq!(status(None), Status::Warn);
        assert_eq!(status(Some(Timestamp(0))), Status::Ok);
        assert_eq!(status(Some(Timestamp(-1))), Status::Warn);
        // A clock that was set back.
        assert_eq!(status(Some(now.plus(DAY))), Status::Ok);
    }
}
