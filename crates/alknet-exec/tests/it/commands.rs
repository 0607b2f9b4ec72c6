//! Command operations: arguments, outputs, errors, limits.

use crate::support::*;
use alknet_core::{CallError, Dispatcher, ErrorCode, Kind};
use alknet_exec::ExecConfig;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::{Value, json};
use std::io::Write;

const ECHO: &str = r#"
    command = ["printf", "%s|", "{a}", "--opt={b}", "{rest}"]
    output  = "text"
    [operation.input]
    a    = "string"
    b    = { type = "integer", optional = true }
    rest = { type = "array", items = { type = "string" }, default = ["x", "y z"] }
"#;

#[tokio::test]
async fn fields_become_arguments() {
    let door = run_door(ECHO);
    let got = |input: Value| {
        let door = door.clone();
        async move { run(&door, &input).await.unwrap() }
    };
    assert_eq!(got(json!({ "a": "1" })).await, "1|x|y z|");
    let full = json!({ "a": "$(id) *", "b": 42, "rest": [] });
    assert_eq!(got(full).await, "$(id) *|--opt=42|");
    let several = json!({ "a": "", "rest": ["p", "", "q"] });
    assert_eq!(got(several).await, "|p||q|");
}

#[tokio::test]
async fn the_input_is_on_standard_input_too() {
    let door = run_door(
        r#"
        command = ["cat"]
        output  = "json"
        input   = { text = "string", level = { type = "integer", default = 3 }, deep = "object" }
        "#,
    );
    let input = json!({ "text": "a\nb", "deep": { "x": [1, null] } });
    let want = json!({ "text": "a\nb", "level": 3, "deep": { "x": [1, null] } });
    assert_eq!(run(&door, &input).await.unwrap(), want);
}

#[tokio::test]
async fn an_input_that_nobody_reads_is_no_error() {
    let door = run_door("command = [\"true\"]\ninput = { text = \"string\" }");
    let input = json!({ "text": "x".repeat(500_000) });
    assert_eq!(run(&door, &input).await.unwrap(), "");
}

#[track_caller]
fn assert_invalid(error: &CallError, pointer: &str, message: &str) {
    assert!(error.is(ErrorCode::InvalidInput), "{error}");
    let violation = &error.details.as_deref().unwrap()[0];
    assert_eq!(violation["pointer"], pointer, "{error}");
    let said = violation["message"].as_str().unwrap();
    assert!(said.contains(message), "{error}");
}

async fn invalid(door: &Dispatcher, input: Value) -> CallError {
    run(door, &input).await.unwrap_err()
}

#[tokio::test]
async fn a_value_does_not_become_an_option() {
    let door = run_door(ECHO);
    let error = invalid(&door, json!({ "a": "-rf" })).await;
    assert_invalid(&error, "/a", "begins with `-`");
    let error = invalid(&door, json!({ "a": "-" })).await;
    assert_invalid(&error, "/a", "begins with `-`");
    let error = invalid(&door, json!({ "a": "x", "b": -1 })).await;
    assert_invalid(&error, "/b", "begins with `-`");
    let error = invalid(&door, json!({ "a": "x", "rest": ["ok", "--help"] })).await;
    assert_invalid(&error, "/rest/1", "begins with `-`");
}

#[tokio::test]
async fn after_two_dashes_nothing_is_an_option() {
    let door = run_door(
        r#"
        command = ["printf", "%s|", "{first}", "--", "{second}", "--x={second}"]
        input   = { first = "string", second = "string" }
        "#,
    );
    let input = json!({ "first": "a", "second": "-b" });
    assert_eq!(run(&door, &input).await.unwrap(), "a|--|-b|--x=-b|");
    let error = invalid(&door, json!({ "first": "-a", "second": "-b" })).await;
    assert_invalid(&error, "/first", "begins with `-`");
}

#[tokio::test]
async fn a_value_that_is_two_dashes_opens_no_door() {
    let door = run_door(
        r#"
        command = ["printf", "%s|", "{first}", "{second}"]
        input   = { first = { type = "string", dash = true }, second = "string" }
        "#,
    );
    let error = invalid(&door, json!({ "first": "--", "second": "-b" })).await;
    assert_invalid(&error, "/second", "begins with `-`");
    let input = json!({ "first": "-5", "second": "b" });
    assert_eq!(run(&door, &input).await.unwrap(), "-5|b|");
    // What the configuration knows of a field is not for callers.
    let view = door.registry().view();
    let entry = view
        .local()
        .find(|entry| entry.spec().name.as_str() == "test/run");
    let schema = entry.unwrap().spec().input.value().clone();
    assert_eq!(schema["properties"]["first"], json!({ "type": "string" }));
}

#[tokio::test]
async fn values_that_are_no_arguments_are_refused() {
    let door = run_door(
        r#"
        command = ["printf", "%s|", "{any}", "{flag}"]
        input   = { any = {}, flag = { type = "boolean", optional = true } }
        "#,
    );
    assert_eq!(
        run(&door, &json!({ "any": 1.5, "flag": true }))
            .await
            .unwrap(),
        "1.5|true|"
    );
    assert_invalid(
        &invalid(&door, json!({ "any": "a\0b" })).await,
        "/any",
        "NUL",
    );
    assert_invalid(
        &invalid(&door, json!({ "any": null })).await,
        "/any",
        "no string",
    );
    assert_invalid(
        &invalid(&door, json!({ "any": { "a": 1 } })).await,
        "/any",
        "no string",
    );
    assert_invalid(
        &invalid(&door, json!({ "any": [[1]] })).await,
        "/any/0",
        "no string",
    );
}

#[tokio::test]
async fn the_schema_is_enforced() {
    let door = run_door(
        r#"
        command = ["echo", "{service}"]
        input   = { service = { enum = ["web", "worker"] } }
        "#,
    );
    assert_eq!(
        run(&door, &json!({ "service": "web" })).await.unwrap(),
        "web\n"
    );
    assert_invalid(
        &invalid(&door, json!({ "service": "db" })).await,
        "/service",
        "",
    );
    assert_invalid(&invalid(&door, json!({})).await, "", "required");
    let more = json!({ "service": "web", "more": 1 });
    assert_invalid(&invalid(&door, more).await, "", "dditional");
}

#[tokio::test]
async fn schemas_may_be_whole_or_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let schema =
        json!({ "type": "object", "properties": { "n": { "type": "integer", "maximum": 9 } } });
    std::fs::write(dir.path().join("in.json"), schema.to_string()).unwrap();
    let inline = toml::to_string(&json!({ "input": schema })).unwrap();
    for input in ["input = { file = \"in.json\" }".to_owned(), inline] {
        let text = format!(
            "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\ncommand = [\"echo\", \"{{n}}\"]\n{}",
            input.replace("[input", "[operation.input")
        );
        let configs = parse(&text);
        let made = alknet_exec::command_operations(&configs, &exec(), dir.path());
        let door = door(made.unwrap());
        assert_eq!(run(&door, &json!({ "n": 9 })).await.unwrap(), "9\n");
        assert_eq!(run(&door, &json!({})).await.unwrap(), "\n");
        assert_invalid(&invalid(&door, json!({ "n": 10 })).await, "/n", "");
    }
}

#[tokio::test]
async fn a_field_may_be_called_file() {
    let door = run_door("command = [\"echo\", \"{file}\"]\ninput = { file = \"string\" }");
    assert_eq!(run(&door, &json!({ "file": "x" })).await.unwrap(), "x\n");
}

#[tokio::test]
async fn exit_codes_are_the_errors_that_were_declared() {
    let door = run_door(
        r#"
        command = ["sh", "-c", "echo partly; echo 'no luck' >&2; exit $0", "{code}"]
        input   = { code = "integer" }
        errors  = { "3" = { code = "NOT_HEALTHY", description = "The service did not come up." }, "4" = { code = "NOT_HEALTHY", description = "The same." } }
        "#,
    );
    assert_eq!(run(&door, &json!({ "code": 0 })).await.unwrap(), "partly\n");
    let details = |code: i32| json!({ "exit_code": code, "signal": null, "stderr": "no luck\n" });
    let error = invalid(&door, json!({ "code": 3 })).await;
    assert_eq!(error.code, "NOT_HEALTHY");
    assert_eq!(error.message, "The service did not come up.");
    assert_eq!(*error.details.unwrap(), details(3));
    assert_eq!(
        invalid(&door, json!({ "code": 4 })).await.code,
        "NOT_HEALTHY"
    );
    let error = invalid(&door, json!({ "code": 5 })).await;
    assert_eq!(error.code, "COMMAND_FAILED");
    assert_eq!(error.message, "`test/run` exited with code 5: no luck");
    assert_eq!(*error.details.unwrap(), details(5));
}

#[tokio::test]
async fn a_signal_is_a_failure() {
    let door = run_door("command = [\"sh\", \"-c\", \"kill -KILL $$\"]");
    let error = invalid(&door, json!({})).await;
    assert_eq!(error.code, "COMMAND_FAILED");
    assert_eq!(error.message, "`test/run` was ended by signal KILL");
    let want = json!({ "exit_code": null, "signal": "KILL", "stderr": "" });
    assert_eq!(*error.details.unwrap(), want);
}

#[tokio::test]
async fn the_details_keep_the_last_4_kib_of_standard_error() {
    let script = "i=0; while [ $i -lt 1000 ]; do printf '%09d\\n' $i; i=$((i+1)); done >&2; exit 1";
    let door = run_door(&format!("command = [\"sh\", \"-c\", {script:?}]"));
    let error = invalid(&door, json!({})).await;
    let stderr = error.details.unwrap()["stderr"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(stderr.len(), 4096);
    assert!(stderr.ends_with("000000998\n000000999\n"), "{stderr}");
}

#[tokio::test]
async fn a_program_that_does_not_start_says_so() {
    let door = run_door("command = [\"no-such-program\"]");
    let error = invalid(&door, json!({})).await;
    assert_eq!(error.code, "COMMAND_NOT_STARTED");
    assert_eq!(
        error.message,
        "`test/run` could not be started: no program `no-such-program` in /usr/local/bin:/usr/bin:/bin"
    );
}

#[tokio::test]
async fn output_that_is_not_what_was_promised_is_internal() {
    for fields in [
        "command = [\"echo\", \"{oops\"]\noutput = \"json\"",
        "command = [\"true\"]\noutput = \"json\"",
        "command = [\"printf\", \"ab\\\\377\"]",
        // It is JSON, though of another shape.
        "command = [\"echo\", \"[1]\"]\noutput = \"json\"\noutput_schema = { n = \"integer\" }",
    ] {
        let error = invalid(&run_door(fields), json!({})).await;
        assert!(error.is(ErrorCode::Internal), "{fields}: {error}");
        assert!(
            error.message.starts_with("internal error in call"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn replies_have_a_largest_size() {
    let mut config = ExecConfig::default();
    config.output_bytes_max = 100_000;
    let text = "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\n\
        command = [\"head\", \"-c\", \"{n}\", \"/dev/zero\"]\ninput = { n = \"integer\" }";
    let door = door(commands(text, &exec_with(config)).unwrap());
    let reply = run(&door, &json!({ "n": 100_000 })).await.unwrap();
    assert_eq!(reply.as_str().unwrap().len(), 100_000);
    for n in [100_001u64, 1 << 40] {
        let error = invalid(&door, json!({ "n": n })).await;
        assert!(error.is(ErrorCode::TooLarge), "{error}");
        assert_eq!(
            error.message,
            "`test/run` printed a reply of more than 100000 bytes"
        );
    }
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ >{}; exec sleep 300", file.display());
    let door = run_door(&format!(
        "command = [\"sh\", \"-c\", {script:?}]\ntimeout = \"500ms\""
    ));
    let error = invalid(&door, json!({})).await;
    assert!(error.is(ErrorCode::Timeout), "{error}");
    let pid = std::fs::read_to_string(&file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    eventually("the program is dead", || !is_alive(pid)).await;
}

#[tokio::test]
async fn commands_answer_within_the_configured_time_unless_they_state_their_own() {
    let mut config = ExecConfig::default();
    config.timeout = "45s".parse().unwrap();
    let text = r#"
        [[operation]]
        name = "a/default"
        summary = "A."
        command = ["true"]
        [[operation]]
        name = "a/stated"
        summary = "A."
        command = ["true"]
        timeout = "2m"
        [[operation]]
        name = "a/lines"
        summary = "A."
        command = ["true"]
        output = "lines"
    "#;
    let made = commands(text, &exec_with(config)).unwrap();
    let seconds: Vec<_> = made
        .iter()
        .map(|made| {
            made.spec()
                .unwrap()
                .limits
                .timeout
                .map(|time| time.as_secs())
        })
        .collect();
    assert_eq!(seconds, [Some(45), Some(120), None]);
    let kinds: Vec<_> = made.iter().map(|made| made.spec().unwrap().kind).collect();
    assert_eq!(kinds, [Kind::Mutation, Kind::Mutation, Kind::Subscription]);
}

#[tokio::test]
async fn cwd_and_env_are_what_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let door = run_door(&format!(
        "command = [\"sh\", \"-c\", \"pwd; env | sort\"]\ncwd = {dir:?}\nenv = {{ A = \"{{b}}\" }}"
    ));
    let reply = run(&door, &json!({})).await.unwrap();
    let lines: Vec<&str> = reply.as_str().unwrap().lines().collect();
    // `PWD` is the shell's own doing.
    let pwd = format!("PWD={}", dir.display());
    let want = [
        dir.to_str().unwrap(),
        "A={b}",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        &pwd,
    ];
    assert_eq!(lines, want);
}

async fn item(items: &mut alknet_core::Subscription) -> Option<Result<Value, CallError>> {
    let item = tokio::time::timeout(SOON, items.next()).await.unwrap();
    item.map(|item| item.and_then(|item| item.into_value()))
}

async fn items(fields: &str) -> Vec<Result<Value, CallError>> {
    let door = run_door(fields);
    let mut items = door.subscribe(to("test/run", &json!({}))).await.unwrap();
    let mut all = Vec::new();
    while let Some(next) = item(&mut items).await {
        all.push(next);
    }
    all
}

#[tokio::test]
async fn lines_are_items_as_they_are_written() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "first").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let door = run_door(
        "command = [\"tail\", \"-n\", \"+1\", \"-f\", \"--\", \"{path}\"]\n\
         output = \"lines\"\ninput = { path = \"string\" }",
    );
    let call = to("test/run", &json!({ "path": path }));
    let mut items = door.subscribe(call).await.unwrap();
    assert_eq!(item(&mut items).await, Some(Ok(json!("first"))));
    for round in 0..20 {
        write!(file, "line ").unwrap();
        file.flush().unwrap();
        writeln!(file, "{round}").unwrap();
        let want = json!(format!("line {round}"));
        assert_eq!(item(&mut items).await, Some(Ok(want)));
    }
    assert_eq!(door.in_flight(), 1);
    drop(items);
    eventually("nobody follows the file", || followers(&path) == 0).await;
}

/// Live processes with `path` among their arguments.
fn followers(path: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| {
            line.split(|byte| *byte == 0)
                .any(|arg| arg == path.as_bytes())
        })
        .count()
}

#[tokio::test]
async fn the_last_line_counts_without_a_line_feed() {
    let got = items("command = [\"printf\", \"a\\n\\nb\"]\noutput = \"lines\"").await;
    assert_eq!(got, [Ok(json!("a")), Ok(json!("")), Ok(json!("b"))]);
}

#[tokio::test]
async fn lines_may_be_json() {
    let fields = r#"
        command = ["printf", '{"n":1}\n\n{"n":2}']
        output  = "lines"
        output_schema = { n = "integer" }
    "#;
    assert_eq!(
        items(fields).await,
        [Ok(json!({ "n": 1 })), Ok(json!({ "n": 2 }))]
    );
    let fields = "command = [\"printf\", '1\\nx\\n2']\noutput = \"lines\"\noutput_schema = true";
    let got = items(fields).await;
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], Ok(json!(1)));
    let error = got[1].as_ref().unwrap_err();
    assert!(error.is(ErrorCode::Internal));
}

#[tokio::test]
async fn lines_end_with_the_error_of_the_command() {
    let got =
        items("command = [\"sh\", \"-c\", \"echo one; echo bad >&2; exit 2\"]\noutput = \"lines\"")
            .await;
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], Ok(json!("one")));
    let error = got[1].as_ref().unwrap_err();
    assert_eq!(error.message, "`test/run` exited with code 2: bad");
}

#[tokio::test]
async fn a_line_has_a_largest_size() {
    let mut config = ExecConfig::default();
    config.output_bytes_max = 1000;
    let text = "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\noutput = \"lines\"\n\
        command = [\"sh\", \"-c\", \"head -c $0 /dev/zero; echo; yes | tr -d '\\\\n'\", \"{n}\"]\n\
        input = { n = \"integer\" }";
    let door = door(commands(text, &exec_with(config)).unwrap());
    for (n, first) in [(1000, true), (1001, false)] {
        let call = to("test/run", &json!({ "n": n }));
        let mut items = door.subscribe(call).await.unwrap();
        if first {
            let line = item(&mut items).await.unwrap().unwrap();
            assert_eq!(line.as_str().unwrap().len(), 1000);
        }
        let error = item(&mut items).await.unwrap().unwrap_err();
        assert!(error.is(ErrorCode::TooLarge), "{error}");
        assert_eq!(item(&mut items).await, None);
    }
}

const MIB: usize = 1024 * 1024;

/// The block of that number: no two are alike.
fn block(number: usize, template: &[u8]) -> Bytes {
    let mut block = BytesMut::from(template);
    block[..8].copy_from_slice(&(number as u64).to_le_bytes());
    block.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_through_and_come_back_the_same() {
    const BLOCKS: usize = 64;
    let door = run_door("command = [\"cat\"]\noutput = \"bytes\"");
    let call = door.open(to("test/run", &json!({}))).await.unwrap();
    let alknet_core::ChannelCall { channel, done, .. } = call;
    let (mut tx, mut rx) = (channel.tx, channel.rx);
    let template: Vec<u8> = (0..MIB).map(|at| ((at * 31) >> 3) as u8).collect();
    let sent = template.clone();
    let sending = tokio::spawn(async move {
        for number in 0..BLOCKS {
            tx.send(block(number, &sent)).await.unwrap();
        }
        tx.end();
        tx
    });
    let (mut number, mut got) = (0, BytesMut::new());
    while let Some(chunk) = rx.recv().await.unwrap() {
        assert!(!chunk.aux);
        got.extend_from_slice(&chunk.bytes);
        while got.len() >= MIB {
            assert!(
                got.split_to(MIB) == block(number, &template),
                "block {number}"
            );
            number += 1;
        }
    }
    assert_eq!((number, got.len()), (BLOCKS, 0));
    let result = done.await.unwrap().into_value().unwrap();
    assert_eq!(result, json!({ "exit_code": 0, "signal": null }));
    sending.await.unwrap();
}

#[tokio::test]
async fn a_channel_takes_arguments_and_fails_as_declared() {
    let door = run_door(
        r#"
        command = ["sh", "-c", "cat; echo oops >&2; exit $0", "{code}"]
        output  = "bytes"
        input   = { code = "integer" }
        errors  = { "3" = { code = "HALF_DONE", description = "Only half." } }
        "#,
    );
    let mut call = door
        .open(to("test/run", &json!({ "code": 3 })))
        .await
        .unwrap();
    let half = Bytes::from_static(b"half");
    call.channel.tx.send(half).await.unwrap();
    call.channel.tx.end();
    let chunk = call.channel.rx.recv().await.unwrap().unwrap();
    assert_eq!(chunk.bytes, "half");
    assert_eq!(call.channel.rx.recv().await.unwrap(), None);
    let error = call.done.await.unwrap_err();
    assert_eq!(error.code, "HALF_DONE");
    assert_eq!(error.details.unwrap()["stderr"], "oops\n");
    let minus = door.open(to("test/run", &json!({ "code": -1 }))).await;
    assert_invalid(&minus.unwrap_err(), "/code", "begins with `-`");
}
