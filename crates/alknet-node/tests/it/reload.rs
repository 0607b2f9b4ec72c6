//! Reading the configuration again: what changes live, what waits, and what
//! must not change anything.

use crate::support::{Known, TestNode, runs_commands, start_configured, start_with};
use alknet_core::ErrorCode;
use alknet_node::{Config, ReloadError};
use serde_json::json;

const SUPPORT: &str = r#"
[[role]]
name = "support"
scopes = ["node:read"]
"#;

fn write(node: &TestNode, text: &str) {
    std::fs::write(node.dir.path().join("alknet.toml"), text).unwrap();
}

fn operation(name: &str) -> String {
    format!(
        "[[operation]]\nname = \"{name}\"\nsummary = \"Says hello.\"\nkind = \"query\"\ncommand = [\"echo\", \"hello\"]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_operations_change_live() {
    let home = start_configured("home", &runs_commands()).await;
    let error = home
        .ask(
            "peers/add",
            json!({ "peer": "tablet", "grants": ["support"] }),
        )
        .await
        .unwrap_err();
    assert!(error.message.contains("no role `support`"), "{error:?}");
    write(
        &home,
        &(runs_commands() + SUPPORT + &operation("ops/hello")),
    );
    let report = home.told("node/reload", json!({})).await;
    assert_eq!(
        report,
        json!({ "applied": ["operation", "role"], "needs_restart": [] })
    );
    assert_eq!(home.told("ops/hello", json!({})).await, "hello\n");
    let tablet = Known::to(&home, "tablet", &["support"]).await;
    tablet.call_json("node/info", &json!({})).await.unwrap();
    let error = tablet.call_json("ops/hello", &json!({})).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");

    // What a role gives changes for those who hold it, at once.
    let wider = SUPPORT.replace("\"node:read\"", "\"ops:*\"");
    write(&home, &(runs_commands() + &wider + &operation("ops/hello")));
    let report = home.reload().await.unwrap();
    assert_eq!(report.applied, ["role"]);
    let said = tablet.call_json("ops/hello", &json!({})).await;
    assert_eq!(said.unwrap(), "hello\n");
    let error = tablet.call_json("node/info", &json!({})).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    let report = home.reload().await.unwrap();
    assert_eq!((report.applied.len(), report.needs_restart.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_of_configured_operations_are_the_operators() {
    let home = start_configured("home", &(runs_commands() + &operation("ops/hello"))).await;
    let tablet = Known::to(&home, "tablet", &["operator"]).await;
    let said = tablet.call_json("ops/hello", &json!({})).await;
    assert_eq!(said.unwrap(), "hello\n");
    let roles = home.told("roles/list", json!({})).await;
    let operator = roles["roles"].as_array().unwrap().iter();
    let operator = operator.clone().find(|role| role["name"] == "operator");
    assert!(
        operator.unwrap()["grants"]
            .to_string()
            .contains("ops:hello")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_is_named_and_waits_for_a_restart() {
    let home = start_configured("home", &runs_commands()).await;
    let tablet = Known::to(&home, "tablet", &["node:read"]).await;
    let changed = "[limits]\ncalls_per_peer_max = 1\n[exec]\ntimeout = \"5s\"\n[network]\nport_mapping = true\n";
    write(&home, changed);
    for _ in 0..2 {
        let report = home.reload().await.unwrap();
        assert_eq!(report.applied.len(), 0);
        assert_eq!(report.needs_restart, ["network", "limits", "exec"]);
    }
    tablet.call_json("node/info", &json!({})).await.unwrap();
    assert_eq!(home.name(), "home");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_next_start_would_refuse_is_refused_now() {
    let home = start_configured("home", &runs_commands()).await;
    write(&home, "[exec]\nuser = \"nobody-there\"\n");
    let error = home.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::Exec(_)), "{error:?}");
    let text = error.full_text();
    assert!(text.contains("nobody-there"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing() {
    let good = runs_commands() + SUPPORT + &operation("ops/hello");
    let home = start_configured("home", &good).await;
    let view = || home.door().registry().view().revision();
    let before = view();
    let bad = [
        "name = ",
        "[netwrok]\n",
        "[[role]]\nname = \"admin\"\n",
        "[limits]\nidle_ms = 1\n",
        "[[operation]]\nname = \"ops/other\"\nsummary = \"Other.\"\ncommand = []\n",
        "[[operation]]\nname = \"node/info\"\nsummary = \"Other.\"\nkind = \"query\"\ncommand = [\"date\"]\n",
    ];
    for text in bad {
        write(&home, &(runs_commands() + SUPPORT + text));
        let error = home.ask("node/reload", json!({})).await.unwrap_err();
        assert!(error.is(ErrorCode::Conflict), "{text}: {error:?}");
        assert_eq!(view(), before, "{text}");
    }
    // A file that goes missing is no empty file.
    std::fs::remove_file(home.dir.path().join("alknet.toml")).unwrap();
    let error = home.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::Config(_)), "{error:?}");
    assert!(error.full_text().contains("touch"), "{}", error.full_text());
    assert_eq!(home.told("ops/hello", json!({})).await, "hello\n");
    let roles = home.told("roles/list", json!({})).await;
    assert!(roles.to_string().contains("support"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_held_cannot_go() {
    let home = start_configured("home", SUPPORT).await;
    let tablet = Known::to(&home, "tablet", &["support"]).await;
    home.told(
        "peers/add",
        json!({ "peer": "phone", "grants": ["support"] }),
    )
    .await;
    write(&home, "");
    let narrow = json!({ "peer": "phone", "name": "narrow", "grants": ["support"] });
    let narrow = home.told("keys/create", narrow).await;
    let narrow = narrow["id"].as_str().unwrap();
    let error = home.reload().await.unwrap_err();
    let ReloadError::RoleInUse { role, holders } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((role.as_str(), holders.len()), ("support", 3));
    let held = format!("role `support` is held by phone, tablet, key {narrow} of phone");
    assert_eq!(error.to_string(), held);
    assert!(error.full_text().contains("alknet revoke phone support"));
    tablet.call_json("node/info", &json!({})).await.unwrap();
    for peer in ["tablet", "phone"] {
        let input = json!({ "peer": peer, "targets": ["support"] });
        home.told("peers/revoke", input).await;
    }
    // A key that says less than it did would be told so by nobody.
    let error = home.reload().await.unwrap_err().full_text();
    assert!(
        error.contains(&format!("(alknet keys revoke {narrow})")),
        "{error}"
    );
    home.told("keys/revoke", json!({ "key": narrow })).await;
    assert_eq!(home.reload().await.unwrap().applied, ["role"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_configuration_is_not_replaced_by_a_file() {
    let config = Config {
        name: Some("home".into()),
        roles: Config::parse(SUPPORT, "test.toml".as_ref()).unwrap().roles,
        ..Config::default()
    };
    let home = start_with("home", |home| home.config(config)).await;
    write(&home, "[[role]]\nname = \"other\"\n");
    let report = home.reload().await.unwrap();
    assert_eq!((report.applied.len(), report.needs_restart.len()), (0, 0));
    let roles = home.told("roles/list", json!({})).await.to_string();
    assert!(
        roles.contains("support") && !roles.contains("other"),
        "{roles}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_at_the_same_time_leave_one_of_the_files() {
    let home = start_configured("home", &runs_commands()).await;
    write(&home, &(runs_commands() + &operation("ops/hello")));
    let reloads = (0..8).map(|_| home.reload());
    for reloaded in futures::future::join_all(reloads).await {
        reloaded.unwrap();
    }
    assert_eq!(home.told("ops/hello", json!({})).await, "hello\n");
    write(&home, &runs_commands());
    home.reload().await.unwrap();
    let error = home.ask("ops/hello", json!({})).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
}
