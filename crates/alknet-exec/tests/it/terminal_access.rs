//! `shell/open`: as whom, what is refused, and whose right it takes.

use crate::{support::*, terminal_support::*};
use alknet_core::{
    Call, CallError, Caller, ChannelCall, Credential, Dispatcher, ErrorCode, Identity,
    OperationName, PeerId, Registry, ResourceGrant, ResourceKind, Scope, StaticIdentities,
};
use alknet_exec::{Exec, ExecConfig, shell_operations};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// As whoever runs the tests, by name.
fn own_account() -> Exec {
    let mut config = ExecConfig::default();
    if rustix::process::geteuid().is_root() {
        config.user = Some("root".into());
    }
    Exec::new(config).unwrap()
}

#[tokio::test]
async fn without_a_program_it_is_the_login_shell_of_the_account() {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let account = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[2] == uid);
    let Some(account) = account else {
        panic!("whoever runs the tests has an account");
    };
    let (name, home, shell) = (account[0], account[5], account[6]);
    let door = door(shell_operations(&own_account()));
    let mut screen = Screen::open(
        &door,
        json!({ "env": { "LANG": "C.UTF-8", "HISTFILE": "/dev/null" } }),
    )
    .await;
    // Split, so that the echo of the question is no answer to it.
    screen
        .type_in("echo a\"\"=$0 b\"\"=$HOME c\"\"=$USER,$LOGNAME,$SHELL,$LANG d\"\"=$(pwd)e\n")
        .await;
    let argv0 = format!("-{}", shell.rsplit('/').next().unwrap());
    screen
        .until(&format!(
            "a={argv0} b={home} c={name},{name},{shell},C.UTF-8 d={home}e"
        ))
        .await;
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", screen.pid())).unwrap();
    assert_eq!(line, format!("{argv0}\0"));
    screen.type_in("exit 7\n").await;
    assert_eq!(screen.rest().await.unwrap().result["exit_code"], 7);
}

#[tokio::test]
async fn a_login_shell_whose_input_ends_ends() {
    let door = door(shell_operations(&own_account()));
    let mut screen = Screen::open(&door, json!({ "env": { "HISTFILE": "/dev/null" } })).await;
    screen
        .type_in("echo out\"\"put; exit_code() { return 9; }; exit_code\n")
        .await;
    screen.call.channel.tx.end();
    let outcome = screen.rest().await.unwrap();
    assert!(outcome.text().contains("output\r\n"), "{}", outcome.text());
    assert_eq!(outcome.result["exit_code"], 9);
}

#[tokio::test]
async fn an_id_without_an_account_gets_a_plain_shell_in_the_root() {
    // Nobody's: but the process itself runs as whoever runs the tests.
    let exec = Exec::with_euid(ExecConfig::default(), 3_999_999_999).unwrap();
    let door = door(shell_operations(&exec));
    let mut screen = Screen::open(&door, json!({})).await;
    screen.type_in("echo a\"\"=$0,$HOME,$USER,$(pwd)z\n").await;
    screen.until("a=-sh,/,,/z").await;
}

#[tokio::test]
async fn another_account_owns_its_terminal_and_starts_at_home() {
    if !is_root("another_account_owns_its_terminal_and_starts_at_home") {
        return;
    }
    let mut config = ExecConfig::default();
    config.user = Some("nobody".into());
    let door = door(shell_operations(&Exec::new(config).unwrap()));
    // Its home does not exist.
    let argv = [
        "sh",
        "-c",
        "id -un; pwd; stat -c %U $(tty); : <$(tty) && echo may open it",
    ];
    let screen = Screen::open(&door, json!({ "argv": argv })).await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.text(), "nobody\r\n/\r\nnobody\r\nmay open it\r\n");
    // Stated, it must be one.
    let input = json!({ "argv": argv, "cwd": "/nonexistent" });
    let error = door.open(to("shell/open", &input)).await.unwrap_err();
    assert_eq!(error.code, "DIRECTORY_NOT_FOUND");
}

#[tokio::test]
async fn only_the_terminal_is_open_in_it() {
    let file = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let screen = Screen::plain(&shell_door(), "echo /proc/$$/fd/*").await;
    let outcome = screen.rest().await.unwrap();
    let open: Vec<&str> = outcome
        .text()
        .split_whitespace()
        .filter_map(|path| path.rsplit('/').next())
        // The directory that is being listed.
        .filter(|fd| *fd != "3")
        .collect();
    assert_eq!(open, ["0", "1", "2"]);
}

async fn check_refused(input: Value, code: &str, pointer: Option<&str>) {
    let error = shell_door()
        .open(to("shell/open", &input))
        .await
        .unwrap_err();
    assert_eq!(error.code, code, "{input}: {error}");
    if let Some(pointer) = pointer {
        let details = error.details.as_deref().unwrap();
        assert_eq!(details[0]["pointer"], pointer, "{error}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let invalid = "INVALID_INPUT";
    check_refused(json!({ "argv": [] }), invalid, Some("/argv")).await;
    check_refused(json!({ "argv": ["ls", "a\0"] }), invalid, Some("/argv/1")).await;
    check_refused(json!({ "argv": ["./ls"] }), invalid, Some("/argv/0")).await;
    check_refused(json!({ "cwd": "tmp" }), invalid, Some("/cwd")).await;
    check_refused(json!({ "rows": 65_536 }), invalid, Some("/rows")).await;
    check_refused(json!({ "cols": -1 }), invalid, Some("/cols")).await;
    check_refused(
        json!({ "modes": { "ECHO": -1 } }),
        invalid,
        Some("/modes/ECHO"),
    )
    .await;
    check_refused(json!({ "env": { "A B": "" } }), invalid, Some("/env/A B")).await;
    check_refused(json!({ "shell": "bash" }), invalid, None).await;
    for term in ["", "../../tmp/x", "a b", &"x".repeat(65)] {
        check_refused(json!({ "term": term }), invalid, Some("/term")).await;
    }
    check_refused(
        json!({ "argv": ["no-such-program"] }),
        "PROGRAM_NOT_FOUND",
        None,
    )
    .await;
    check_refused(json!({ "argv": ["/etc"] }), "PROGRAM_NOT_RUNNABLE", None).await;
    let nowhere = json!({ "argv": ["ls"], "cwd": "/no/such" });
    check_refused(nowhere, "DIRECTORY_NOT_FOUND", None).await;
}

#[tokio::test]
async fn the_limits_of_an_input_hold_at_their_edges() {
    let door = shell_door();
    let open = |input: Value| {
        let door = door.clone();
        async move { door.open(to("shell/open", &input)).await.map(drop) }
    };
    let modes = |count: usize| {
        let modes: BTreeMap<String, u32> = (0..count).map(|n| (format!("M{n}"), 1)).collect();
        json!({ "argv": ["true"], "modes": modes })
    };
    open(modes(128)).await.unwrap();
    assert!(
        open(modes(129))
            .await
            .unwrap_err()
            .is(ErrorCode::InvalidInput)
    );
    open(json!({ "argv": ["true"], "term": "x".repeat(64) }))
        .await
        .unwrap();
    let edge = json!({ "argv": ["stty", "size"], "rows": 65_535, "cols": 0 });
    let outcome = Screen::open(&door, edge).await.rest().await.unwrap();
    assert_eq!(outcome.text(), "65535 0\r\n");
}

/// A peer that may do some things.
pub(crate) struct Peer {
    pub(crate) identities: Arc<StaticIdentities>,
    identity: Identity,
    door: Dispatcher,
}

impl Peer {
    pub(crate) fn with(scopes: &[&str], programs: &[&str]) -> Self {
        let mut identity = Identity::empty(PeerId::parse("bob").unwrap());
        for scope in scopes {
            identity.scopes.insert(Scope::parse(scope).unwrap());
        }
        for program in programs {
            let grant = ResourceGrant::parse(ResourceKind::Command, program, &["exec"]);
            identity.resources.allow.push(grant.unwrap());
        }
        let identities = Arc::new(StaticIdentities::default());
        identities.put(Self::key(), identity.clone());
        let registry = Registry::new();
        // Its shell is `/bin/sh`.
        let exec = Exec::with_euid(ExecConfig::default(), 3_999_999_999).unwrap();
        registry.register(shell_operations(&exec)).unwrap();
        let door = Dispatcher::builder(registry).identities(identities.clone());
        Self {
            identities,
            identity,
            door: door.build(),
        }
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Identity)) {
        change(&mut self.identity);
        self.identities.put(Self::key(), self.identity.clone());
    }

    pub(crate) fn key() -> Credential {
        Credential::NodeKey([7; 32])
    }

    pub(crate) async fn open(&self, input: &Value) -> Result<ChannelCall, CallError> {
        let caller = Caller::resolve(&*self.identities, Self::key()).unwrap();
        let call = Call::new("shell/open", caller).unwrap().input(input);
        self.door.open(call).await
    }
}

#[tokio::test]
async fn a_shell_takes_the_right_to_the_shell_and_a_program_that_to_the_program() {
    let (shell, ls) = (json!({}), json!({ "argv": ["ls"] }));
    for (scopes, programs, may_shell, may_ls) in [
        (&["shell:open"][..], &["*"][..], true, true),
        (&["shell:*"], &["/bin/sh"], true, false),
        (&["shell:open"], &["ls"], false, true),
        (&["shell:open"], &["sh"], false, false),
        (&["shell:open"], &[], false, false),
        (&["shell:exec"], &["*"], false, false),
    ] {
        let peer = Peer::with(scopes, programs);
        for (input, may) in [(&shell, may_shell), (&ls, may_ls)] {
            let opened = peer.open(input).await;
            assert_eq!(
                opened.is_ok(),
                may,
                "{scopes:?} {programs:?} {input}: {opened:?}"
            );
            if let Err(error) = opened {
                assert!(error.is(ErrorCode::Forbidden), "{error}");
            }
        }
    }
    let error = Peer::with(&["shell:open"], &["ls"])
        .open(&shell)
        .await
        .unwrap_err();
    assert_eq!(error.details.unwrap()["grant"], "command:/bin/sh=exec");
}

#[tokio::test]
async fn a_grant_of_the_whole_operation_is_a_shell_unless_that_is_denied() {
    let mut peer = Peer::with(&[], &[]);
    peer.change(|bob| {
        bob.operations
            .insert(OperationName::parse("shell/open").unwrap());
    });
    let variable = json!({ "env": { "LD_PRELOAD": "/tmp/x.so" }, "argv": ["true"] });
    for input in [json!({}), json!({ "argv": ["ls"] }), variable] {
        peer.open(&input).await.unwrap();
    }
    peer.change(|bob| {
        let denied = ResourceGrant::parse(ResourceKind::Command, "/bin/sh", &["exec"]);
        bob.resources.deny.push(denied.unwrap());
    });
    assert!(
        peer.open(&json!({}))
            .await
            .unwrap_err()
            .is(ErrorCode::Forbidden)
    );
    peer.open(&json!({ "argv": ["ls"] })).await.unwrap();
}

#[tokio::test]
async fn variables_need_the_grant_for_env() {
    let preload = json!({ "argv": ["ls"], "env": { "LANG": "C", "LD_PRELOAD": "/tmp/x.so" } });
    let narrow = Peer::with(&["shell:open"], &["ls"]);
    let error = narrow.open(&preload).await.unwrap_err();
    assert_eq!(error.details.unwrap()["grant"], "command:env=exec");
    Peer::with(&["shell:open"], &["ls", "env"])
        .open(&preload)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_of_root_opens_no_terminal_until_it_is_told_as_whom() {
    let exec = Exec::with_euid(ExecConfig::default(), 0).unwrap();
    let door = door(shell_operations(&exec));
    for input in [json!({}), json!({ "argv": ["true"] })] {
        let error = door.open(to("shell/open", &input)).await.unwrap_err();
        assert!(error.is(ErrorCode::Forbidden), "{error}");
        assert!(error.message.contains("[exec] user"), "{error}");
    }
}
