//! What is wrong with a configuration is said all at once, and by name.

use crate::support::*;
use alknet_core::{Access, Hints};
use alknet_exec::{CommandConfig, Exec, ExecConfig};
use serde_json::json;

/// The problems of `test/run` with these fields.
fn problems(fields: &str) -> Vec<String> {
    let text = format!("[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\n{fields}");
    let errors = commands(&text, &exec()).err().unwrap_or_default();
    assert!(errors.iter().all(|error| error.operation == "test/run"));
    errors
        .iter()
        .map(|error| format!("{}: {}", error.field, error.problem))
        .collect()
}

#[track_caller]
fn check(fields: &str, want: &str) {
    assert_eq!(problems(fields), [want], "{fields}");
}

#[test]
fn limits_of_an_operation_let_somebody_call_it() {
    let with = |fields: &str| format!("command = [\"true\"]\n{fields}");
    for field in ["calls_in_flight", "calls_in_flight_all", "rate_per_second"] {
        let want = format!("{field}: is 0, with which nobody could call it");
        check(&with(&format!("{field} = 0")), &want);
    }
    check(
        &with("rate_burst = 3"),
        "rate_burst: means nothing without `rate_per_second`",
    );
    let all = "calls_in_flight = 1\ncalls_in_flight_all = 2\nrate_per_second = 3\nrate_burst = 4";
    assert_eq!(problems(&with(all)), [""; 0]);
}

#[test]
fn the_example_of_the_guide_is_read() {
    let text = r#"
        [[operation]]
        name    = "deploy/restart"
        summary = "Restarts one service and waits until it is healthy."
        kind    = "mutation"
        command = ["systemctl", "restart", "--", "{service}"]
        input   = { service = { enum = ["web", "worker"] } }
        output  = "text"
        scopes  = ["deploy:write"]
        timeout = "60s"
        approve = true
        destructive = true
        idempotent = true
        description = "More."
        resources = [{ kind = "topic", action = "publish", at = "/service" }]
        examples = [{ input = { service = "web" }, output = "" }]
    "#;
    let made = commands(text, &exec()).unwrap();
    let spec = made[0].spec().unwrap();
    assert_eq!(spec.name.as_str(), "deploy/restart");
    assert!(spec.approve);
    let hints = Hints {
        read_only: false,
        idempotent: true,
        destructive: true,
        open_world: false,
    };
    assert_eq!(spec.hints, hints);
    let Access::Rule(rule) = &spec.access else {
        panic!("{:?}", spec.access);
    };
    assert_eq!(rule.scopes_all[0].as_str(), "deploy:write");
    assert_eq!(rule.resources.len(), 1);
    let codes: Vec<&str> = spec
        .errors
        .iter()
        .map(|error| error.code.as_str())
        .collect();
    assert_eq!(codes, ["COMMAND_FAILED", "COMMAND_NOT_STARTED"]);
    door(made);
}

#[test]
fn without_scopes_the_operation_has_its_own() {
    let text = "[[operation]]\nname = \"fs/branch/create\"\nsummary = \"A.\"\ncommand = [\"true\"]\n\
        input = { file = \"string\" }\nresources = [{ kind = \"bucket\", action = \"read\", at = \"/file\" }]";
    let made = commands(text, &exec()).unwrap();
    let Access::Rule(rule) = &made[0].spec().unwrap().access else {
        panic!();
    };
    assert_eq!(rule.scopes_all[0].as_str(), "fs:branch-create");
    assert_eq!(rule.resources.len(), 1);
}

#[test]
fn everything_is_reported_at_once() {
    let text = r#"
        [[operation]]
        name    = "Deploy"
        summary = " "
        kind    = "query"
        output  = "lines"
        command = ["sh", "-c", "restart {service}", "{servise}"]
        input   = { service = "string" }
        scopes  = []
        errors  = { "0" = { code = "FINE", description = "x" }, "2" = { code = "not-upper", description = "x" } }

        [[operation]]
        name    = "a/b"
        summary = "A."
        command = []

        [[operation]]
        name    = "a/b"
        summary = "A."
        command = ["true"]
    "#;
    let errors = commands(text, &exec()).unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let fields: Vec<(&str, &str)> = errors
        .iter()
        .map(|error| (error.operation.as_str(), error.field.as_str()))
        .collect();
    let want = [
        ("Deploy", "kind"),
        ("Deploy", "name"),
        ("Deploy", "summary"),
        ("Deploy", "command[2]"),
        ("Deploy", "command[3]"),
        ("Deploy", "errors.0"),
        ("Deploy", "errors.2"),
        ("Deploy", "scopes"),
        ("a/b", "command"),
        ("a/b", "name"),
    ];
    assert_eq!(fields, want, "{said:#?}");
    assert_eq!(
        said[3],
        "operation `Deploy`: `command[2]`: `{service}` is part of `restart {service}`: a placeholder is a whole argument, or follows `=` (`--option={service}`)"
    );
    assert_eq!(
        said[4],
        "operation `Deploy`: `command[3]`: `{servise}` is no field of the input: it has `{service}`"
    );
}

#[test]
fn commands_are_checked() {
    check(
        "command = [\"restart the server\"]",
        "command[0]: `restart the server` is no program: there is no shell, write each argument as a string of its own",
    );
    check(
        "command = [\"{program}\"]\ninput = { program = \"string\" }",
        "command[0]: `{program}`: the program is not for the caller to choose",
    );
    check(
        "command = [\"echo\", \"{x}\"]",
        "command[1]: `{x}` is no field of the input, which has none: add it to `input`",
    );
    check(
        "command = [\"echo\", \"--x={x}\"]\ninput = { x = { type = \"array\", items = { type = \"string\" } } }",
        "command[1]: `{x}` is an array, which can only be a whole argument",
    );
    check(
        "command = [\"echo\", \"{x}\"]\ninput = { x = \"object\" }",
        "command[1]: `{x}` is no string, number or boolean, nor an array of these: the command reads it from standard input, where the whole input is as JSON",
    );
    check(
        "command = [\"echo\", \"a\\u0000\"]",
        "command[1]: contains NUL, which no argument can",
    );
    assert!(problems("command = [\"awk\", \"{print $1}\", \"{}\", \"{{.ID}}\"]").is_empty());
}

#[test]
fn kinds_fit_outputs() {
    check(
        "command = [\"true\"]\nkind = \"query\"\noutput = \"lines\"",
        "kind: is `query`, but output is `lines`: a query or a mutation has output `text` or `json`",
    );
    check(
        "command = [\"true\"]\nkind = \"subscription\"\noutput = \"bytes\"",
        "kind: is `subscription`, but output is `bytes`: a subscription has output `lines`",
    );
    check(
        "command = [\"true\"]\nkind = \"channel\"",
        "kind: is `channel`, but output is `text`: a channel has output `bytes`",
    );
    check(
        "command = [\"true\"]\nkind = \"query\"\ndestructive = true",
        "destructive: a query destroys nothing: make it a mutation",
    );
}

#[test]
fn schemas_are_checked() {
    check(
        "command = [\"true\"]\ninput = { city = \"sting\" }",
        "input.city: is no schema of a field: write a type (`string`, `integer`, `number`, `boolean`, `array`, `object`, `null`) or a table, such as `{ type = \"string\" }`",
    );
    check(
        "command = [\"true\"]\ninput = \"string\"",
        "input: is no table: write fields, such as `{ city = \"string\" }`",
    );
    check(
        "command = [\"true\"]\ninput = { n = { type = \"integer\", default = \"x\" } }",
        "input.n: has the default \"x\", which breaks its own schema",
    );
    check(
        "command = [\"true\"]\ninput = { n = { type = \"integer\", dash = 1 } }",
        "input.n: `dash` is `true` or `false`",
    );
    check(
        "command = [\"true\"]\noutput_schema = true",
        "output_schema: is for output `json`, or for `lines` that are JSON each",
    );
    let said = problems("command = [\"true\"]\ninput = { n = { type = \"integr\" } }");
    assert!(
        said[0].starts_with("input: schema does not compile"),
        "{said:?}"
    );
    let said = problems("command = [\"true\"]\ninput = { file = \"missing.json\" }");
    assert!(
        said[0].starts_with("input: `/etc/alknet/missing.json` cannot be read: No such file"),
        "{said:?}"
    );
    check(
        "command = [\"true\"]\ninput = { \"$schema\" = \"https://json-schema.org/draft/2020-12/schema\", type = \"string\" }",
        "input: is no schema of an object: `type` must be `object`",
    );
    check(
        "command = [\"true\"]\ninput = { n = \"integer\" }\nexamples = [{ input = { n = \"x\" }, output = \"\" }]",
        "examples[0].input: breaks the schema at `/n`: the value is not of type \"integer\"",
    );
    check(
        "command = [\"true\"]\nexamples = [{ output = 3 }]",
        "examples[0].output: breaks the schema: the value is not of type \"string\"",
    );
}

#[test]
fn the_rest_is_checked() {
    check(
        "command = [\"true\"]\nscopes = [\"deploy:*\"]",
        "scopes: `deploy:*` ends in `*`, which only a held scope may",
    );
    check(
        "command = [\"true\"]\ninput = { x = \"string\" }\nresources = [{ kind = \"thing\", action = \"read\", at = \"/x\" }]",
        "resources[0]: `thing` is no kind of resource",
    );
    check(
        "command = [\"true\"]\nresources = [{ kind = \"bucket\", action = \"read\", at = \"x\" }]",
        "resources[0].at: `x` is not a JSON pointer: it is empty or starts with `/`",
    );
    check(
        "command = [\"true\"]\ninput = { note = \"string\" }\nresources = [{ kind = \"topic\", action = \"read\", at = \"/nte\" }]",
        "resources[0].at: `/nte` is no field of the input; did you mean `/note`?",
    );
    check(
        "command = [\"true\"]\nuser = \"no-such-account\"",
        "user: no account `no-such-account` in /etc/passwd",
    );
    check(
        "command = [\"true\"]\nenv = { \"A-B\" = \"x\" }",
        "env.A-B: is no name of a variable: letters, digits and `_`, and no digit in front",
    );
    check(
        "command = [\"true\"]\nerrors = { \"1\" = { code = \"TIMEOUT\", description = \"x\" } }",
        "errors.1: `TIMEOUT` with HTTP status 422 is no error: a code is UPPER_SNAKE and none of the protocol's, a status 400 to 599",
    );
    check(
        "command = [\"true\"]\nerrors = { \"1\" = { code = \"COMMAND_FAILED\", description = \"x\" } }",
        "errors.1: `COMMAND_FAILED` is declared already",
    );
    check(
        "command = [\"true\"]\nerrors = { \"300\" = { code = \"X\", description = \"x\" } }",
        "errors.300: is no exit code of a failure: write 1 to 255",
    );
}

#[test]
fn fields_that_do_not_exist_are_refused() {
    let base = "name = \"a/b\"\nsummary = \"A.\"\ncommand = [\"true\"]\n";
    for (line, want) in [
        ("comand = []", "unknown field `comand`"),
        (
            "timeout = \"60\"",
            "write numbers with units, such as `60s`",
        ),
        ("timeout = 60", "invalid type"),
        ("output = \"xml\"", "unknown variant `xml`"),
    ] {
        let error = toml::from_str::<CommandConfig>(&format!("{base}{line}")).unwrap_err();
        assert!(error.to_string().contains(want), "{line}: {error}");
    }
    let error = toml::from_str::<ExecConfig>("usr = \"x\"").unwrap_err();
    assert!(error.to_string().contains("unknown field `usr`"), "{error}");
}

#[test]
fn the_defaults_are_what_is_documented() {
    let config: ExecConfig = toml::from_str("").unwrap();
    assert_eq!(config, ExecConfig::default());
    let written = serde_json::to_value(&config).unwrap();
    let want = json!({
        "user": null,
        "path": "/usr/local/bin:/usr/bin:/bin",
        "timeout": "30s",
        "shell_timeout": null,
        "output_bytes_max": 4_194_304,
        "memory_bytes_max": 4_294_967_296_u64,
        "processes_max": 64,
        "no_new_privileges": false,
    });
    assert_eq!(written, want);
}

#[test]
fn limits_are_checked_at_the_limit_and_one_past_it() {
    let outcome = |text: &str| {
        let config: ExecConfig = toml::from_str(text).unwrap();
        Exec::with_euid(config, 1000)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(outcome("output_bytes_max = 16777216"), Ok(()));
    assert_eq!(
        outcome("output_bytes_max = 16777217").unwrap_err(),
        "`[exec] output_bytes_max` is 16777217: it must be between 1 and 16777216"
    );
    assert_eq!(outcome("memory_bytes_max = 16777216"), Ok(()));
    assert!(outcome("memory_bytes_max = 16777215").is_err());
    assert!(outcome("processes_max = 0").is_err());
    assert_eq!(
        outcome("path = \"/bin:here\"").unwrap_err(),
        "`[exec] path` has `here`, which is no absolute directory"
    );
    assert!(outcome("path = \"\"").is_err());
}
