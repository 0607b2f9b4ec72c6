//! Every mistake with a secret that somebody may make.

use super::{
    Held, Secrets,
    watch::{Home, Watch},
};
use serde_json::{Value, json};

/// Every secret where it does not belong, and around every mistake.
pub(super) fn refused(
    watch: &mut Watch,
    home: &Home,
    laptop: &Home,
    secrets: &Secrets,
    held: &Held,
) {
    let Held { ticket, key, words } = held;
    let (ticket, credential) = (ticket.trim(), &secrets.credential);
    let put = |field: &str, value: Value| {
        let mut input = json!({ "provider": "github", "account": "ada", "secret": "x" });
        input[field] = value;
        input.to_string()
    };
    let mut inputs = vec![
        ("credentials/put", put("secret", json!([credential]))),
        ("credentials/put", put("secret", json!({ "a": credential }))),
        (
            "credentials/put",
            put("secret", json!(credential.repeat(2000))),
        ),
        ("credentials/put", put("extra", json!(credential))),
        ("credentials/put", put(credential, json!(1))),
        ("credentials/put", json!(credential).to_string()),
        (
            "credentials/put",
            format!("{{\"secret\":\"{}", secrets.filed),
        ),
        (
            "credentials/put",
            format!("{{\"secret\":{}}}", secrets.filed),
        ),
        ("credentials/put", secrets.filed.clone()),
        (
            "vault/unlock",
            json!({ "passphrase": [secrets.passphrase] }).to_string(),
        ),
        (
            "vault/unlock",
            json!({ "passwort": secrets.passphrase }).to_string(),
        ),
        (
            "vault/unlock",
            json!({ "passphrase": secrets.backup }).to_string(),
        ),
        ("canary/use", json!({ "secret": credential }).to_string()),
        (
            "canary/issue",
            json!({ "secret": secrets.issued }).to_string(),
        ),
        ("canary/take", json!({ "secret": credential }).to_string()),
        (
            "canary/take",
            json!({ "secret": credential, "times": 9 }).to_string(),
        ),
        (
            "canary/take",
            json!({ "secret": 1, "times": credential }).to_string(),
        ),
        ("canary/panic", "{}".to_owned()),
    ];
    // In fields that take a name, or a choice, or a number.
    for secret in [credential, ticket, key, words, &secrets.filed] {
        for (operation, field) in [
            ("peers/show", "peer"),
            ("peers/add", "peer"),
            ("peers/add", "node_id"),
            ("peers/remove", "peer"),
            ("peers/grant", "peer"),
            ("peers/join", "name"),
            ("invites/create", "name"),
            ("invites/revoke", "id"),
            ("keys/create", "role"),
            ("keys/revoke", "key"),
            ("keys/list", "peer"),
            ("groups/grant", "group"),
            ("bans/add", "target"),
            ("bans/remove", "target"),
            ("events/list", "from"),
            ("audit/list", "since"),
            ("node/logs", "level"),
            ("services/schema", "operation"),
            ("credentials/remove", "provider"),
        ] {
            inputs.push((operation, json!({ field: secret }).to_string()));
        }
        let explain = json!({ "peer": "laptop", "operation": secret }).to_string();
        inputs.push(("peers/explain", explain));
        let input =
            json!({ "peer": "laptop", "operation": "canary/use", "input": { "a": secret } });
        inputs.push(("peers/explain", input.to_string()));
    }
    // All at once: a process for each would take a minute.
    let calls: Vec<String> = inputs
        .iter()
        .filter_map(|(operation, input)| {
            let input: Value = serde_json::from_str(input).ok()?;
            Some(json!({ "operation": operation, "input": input }).to_string())
        })
        .collect();
    let said = watch.run(home, &["batch", "-", "--json"], calls.join("\n").as_bytes());
    for line in said.stdout.lines() {
        watch.keep("home: batch: an answer", line);
    }
    for (operation, input) in inputs.iter().take(18) {
        for at in [home, laptop] {
            let on: &[&str] = if at.name == "home" {
                &[]
            } else {
                &["--on", "home"]
            };
            let words = [&["call", operation, "-", "--json"], on].concat();
            let said = watch.run(at, &words, input.as_bytes());
            assert!(!said.status.success(), "{said:?}");
        }
    }
    commands(watch, home, laptop, secrets, held);
}

/// The same mistakes on the command line.
fn commands(watch: &mut Watch, home: &Home, laptop: &Home, secrets: &Secrets, held: &Held) {
    let Held { ticket, key, words } = held;
    let (ticket, filed) = (ticket.trim(), &secrets.filed);
    let file = home.private("agent.key", key.as_bytes());
    let wrong = home.private("wrong.pass", b"wrong\n");
    // Where a secret belongs on standard input or in a file, and is wrong.
    let unknown = format!("{}{}", &key[..12], "a".repeat(52));
    let not_a_key = home.private("other.key", secrets.filed.as_bytes());
    let unknown = home.private("unknown.key", unknown.as_bytes());
    for (at, words, input) in [
        (laptop, &["join", "-"][..], ticket.to_owned()),
        (laptop, &["join", "-", "--json"], format!("x{ticket}")),
        (laptop, &["join", "-"], format!("{ticket}aa")),
        (laptop, &["join", "-"], key.clone()),
        (home, &["join", "-"], ticket.to_owned()),
        (
            home,
            &["--key-file", &not_a_key, "status", "--json"],
            String::new(),
        ),
        (
            home,
            &["--key-file", &unknown, "status", "--json"],
            String::new(),
        ),
        (
            home,
            &["--key-file", &file, "vault", "lock", "--json"],
            String::new(),
        ),
        (
            home,
            &["vault", "unlock", "--passphrase-file", &wrong],
            String::new(),
        ),
        (
            home,
            &["vault", "unlock", "--passphrase-file", "-"],
            filed.clone(),
        ),
        (
            home,
            &[
                "vault",
                "passwd",
                "--passphrase-file",
                &wrong,
                "--no-passphrase",
            ],
            String::new(),
        ),
        (
            home,
            &["credentials", "put", "git hub", "ada", "-"],
            filed.clone(),
        ),
        (
            home,
            &["batch", "-", "--json"],
            format!("{{\"operation\":\"credentials/put\",\"input\":{{\"secret\":\"{filed}"),
        ),
        (home, &["batch", "-", "--json"], filed.clone()),
    ] {
        let said = watch.run(at, words, input.as_bytes());
        assert!(!said.status.success(), "{words:?}: {said:?}");
    }
    // Where it never belongs: others of this machine see it there, and nobody
    // else may, not even where the command's error is kept.
    for words in [
        &["join", ticket][..],
        &["credentials", "put", "github", "ada", filed, "--json"],
        &["--key-file", key, "status", "--json"],
        &["init", "--restore", words],
    ] {
        let said = watch.misuse(laptop, words, b"");
        assert!(!said.status.success(), "{words:?}: {said:?}");
    }
    for words in [
        &["peers", "show", ticket, "--json"][..],
        &["peers", "explain", ticket, key],
        &["keys", "revoke", key, "--json"],
        &["call", "peers/show", "--on", ticket],
        &["ops", "describe", key],
        &["call", key],
        &["grant", ticket, "admin"],
        &["audit", "--json", "--caller", ticket],
    ] {
        watch.misuse(home, words, b"");
    }
}
