//! What makes a registration valid, and the laws over whole catalogues.

use crate::world::{World, echo, echo_stream, fails, peer};
use alknet_core::{
    Access, AccessControl, CallError, Caller, Change, ErrorCode, ErrorSpec, Hints, Operation,
    Registration, Registry, Schema, Scope,
};
use alknet_testkit::laws::check_catalogue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

fn problems(operations: Vec<Registration>) -> Vec<String> {
    let registry = Registry::new();
    let before = registry.view().revision();
    let errors = registry.register(operations).unwrap_err();
    assert_eq!(
        registry.view().revision(),
        before,
        "a refused registration changed the view"
    );
    errors.0.iter().map(ToString::to_string).collect()
}

/// What is wrong with one operation that is otherwise fine.
fn problem(operation: Registration) -> String {
    let all = problems(vec![operation]);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

fn query(name: &str) -> alknet_core::OperationBuilder {
    Operation::query(name, "Answers with its input.")
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_by_name() {
    let all = problems(vec![
        Operation::query("demo/silent", " ").raw(echo()),
        query("demo/twice").raw(echo()),
        query("demo/twice").raw(echo()),
        query("Demo/Bad").raw(echo()),
        query("demo/stream").raw(echo_stream()),
        query("services/list").raw(echo()),
        query("demo/fine").raw(echo()),
    ]);
    assert_eq!(
        all,
        [
            "operation `demo/silent` has no summary",
            "operation `demo/twice` is given twice",
            "operation `Demo/Bad` `Demo` is not a name: lowercase letters, digits and single hyphens, starting with a letter",
            "operation `demo/stream` is a query, which this handler cannot answer",
            "operation `services/list` is registered already",
        ]
    );
}

#[test]
fn each_mistake_has_its_sentence() {
    let schema = |value| Schema::from_value(value).unwrap();
    let rule = |rule| Access::Rule(rule);
    let wild = AccessControl::scope(Scope::parse("fs:*").unwrap());
    let cases = [
        (
            query("demo/x")
                .access(rule(AccessControl::default()))
                .raw(echo()),
            "has an access rule that states nothing",
        ),
        (
            query("demo/x")
                .resource("bucket", "read", "/at")
                .resource("net", "dial", "/at")
                .raw(echo()),
            "asks for a bucket and a net at `/at`: a text is one or the other",
        ),
        (
            query("demo/x").access(rule(wild)).raw(echo()),
            "asks for scope `fs:*`, which ends in `*` and can only be held",
        ),
        (
            query("demo/x").requires("fs:*").raw(echo()),
            "scope `fs:*` ends in `*`, which only a held scope may",
        ),
        (
            query("demo/x").requires("FS").raw(echo()),
            "`FS` is not a scope: segments joined by `:`, a held one may end in `*`",
        ),
        (
            query("demo/x").public().requires("fs:read").raw(echo()),
            "states both an open access and a rule",
        ),
        (
            query("demo/x")
                .requires("fs:read")
                .resource("disk", "read", "/file")
                .raw(echo()),
            "`disk` is no kind of resource",
        ),
        (
            query("demo/x")
                .requires("fs:read")
                .resource("bucket", "read", "file")
                .raw(echo()),
            "`file` is not a JSON pointer: it is empty or starts with `/`",
        ),
        (
            query("demo/x").requires("fs:read").or_owner().raw(echo()),
            "`or_owner` follows a `resource`",
        ),
        (
            query("demo/x")
                .hints(Hints {
                    read_only: false,
                    ..Hints::of(alknet_core::Kind::Query)
                })
                .raw(echo()),
            "has hints that do not fit a query",
        ),
        (
            query("demo/x").resumable("seq", "from").raw(echo()),
            "says how to resume, and is no subscription",
        ),
        (
            query("demo/x")
                .error(ErrorSpec::new("NOT_FOUND", "No."))
                .raw(echo()),
            "declares `NOT_FOUND`, which is no domain code or has no error status",
        ),
        (
            query("demo/x")
                .error(ErrorSpec::new("lower", "No."))
                .raw(echo()),
            "declares `lower`, which is no domain code or has no error status",
        ),
        (
            query("demo/x").internal().public().raw(echo()),
            "is internal and public at once",
        ),
        (
            query("demo/x").reaches("fs/*").raw(echo()),
            "`reaches` follows an `authority`",
        ),
        (
            query("demo/x").authority("Own", &[], &[]).raw(echo()),
            "authority `Own` is not a slug",
        ),
        (
            query("demo/x")
                .input_schema(schema(json!({ "type": "integer" })))
                .example(json!("x"), json!(1))
                .raw(echo()),
            "has example 1 whose input breaks the schema: the value is not of type \"integer\"",
        ),
        (
            query("demo/x")
                .output_schema(schema(json!({ "type": "integer" })))
                .example(json!(1), json!("x"))
                .raw(echo()),
            "has example 1 whose output breaks the schema: the value is not of type \"integer\"",
        ),
    ];
    for (operation, want) in cases {
        assert_eq!(problem(operation), format!("operation `demo/x` {want}"));
    }
    let broken = problem(
        query("demo/x")
            .input_schema(schema(json!({ "type": "nonsense" })))
            .raw(echo()),
    );
    assert!(
        broken.starts_with("operation `demo/x` has an input schema does not compile"),
        "{broken}"
    );
}

#[tokio::test]
async fn a_replacement_is_one_step() {
    let world = World::new(vec![query("demo/old").raw(echo())]);
    let replace = |add: &str| Change::ReplaceLocal {
        remove: vec![crate::world::name("demo/old")],
        add: vec![query(add).raw(echo())],
    };
    assert!(world.registry.apply(replace("services/list")).is_err());
    world
        .call(&Caller::host(), "demo/old", json!(1))
        .await
        .unwrap();
    world.registry.apply(replace("demo/new")).unwrap();
    fails(
        world.call(&Caller::host(), "demo/old", json!(1)).await,
        ErrorCode::NotFound,
    );
    world
        .call(&Caller::host(), "demo/new", json!(1))
        .await
        .unwrap();
}

#[test]
fn an_import_has_at_most_50_000_operations() {
    let registry = Registry::new();
    let some = |n: usize| {
        (0..n)
            .map(|n| query(&format!("demo/op-{n}")).public().raw(echo()))
            .collect()
    };
    registry
        .apply(Change::SetPeer(peer("nas"), some(50_000)))
        .unwrap();
    let errors = registry
        .apply(Change::SetPeer(peer("nas"), some(50_001)))
        .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "operation `nas` brings more than 50000 operations"
    );
    assert_eq!(registry.view().peer("nas").count(), 50_000);
}

#[test]
fn an_entry_does_not_show_its_handler_or_its_capabilities() {
    let registry = Registry::new();
    registry
        .register(vec![query("demo/x").capability("hunter2").raw(echo())])
        .unwrap();
    let view = registry.view();
    let text = format!("{:?} {view:?}", view.local().collect::<Vec<_>>());
    assert!(text.contains("demo/x") && !text.contains("hunter2"));
}

#[test]
fn the_discovery_operations_keep_the_laws() {
    let broken = check_catalogue(&Registry::new().view());
    assert!(broken.is_empty(), "{broken:#?}");
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
struct Undocumented {
    /// Documented.
    fine: u32,
    bare: u32,
}

#[derive(Serialize, JsonSchema)]
struct Reply {}

#[test]
fn a_rule_that_looks_where_the_input_has_nothing_is_refused() {
    let asks = |at: &str, schema: serde_json::Value| {
        Operation::query("demo/note", "Reads a note.")
            .resource("topic", "read", at)
            .input_schema(Schema::from_value(schema).unwrap())
            .raw(echo())
    };
    let note = json!({ "type": "object", "properties": { "note": { "type": "string" } } });
    assert_eq!(
        problems(vec![asks("/nte", note.clone())]),
        [
            "operation `demo/note` asks for a topic at a pointer: `/nte` is no field of the input; did you mean `/note`?"
        ]
    );
    // What the schema leaves open is not judged.
    let mut open = note.clone();
    open["additionalProperties"] = json!({ "type": "string" });
    for (at, schema) in [
        ("/note", note.clone()),
        ("/note/0", note),
        ("/nte", open),
        ("/nte", json!({})),
    ] {
        Registry::new().register(vec![asks(at, schema)]).unwrap();
    }
}

#[test]
fn the_laws_see_what_breaks_them() {
    let registry = Registry::new();
    let bare = Operation::query("demo/bare", "Has a field without description.")
        .handler(|_, _: Undocumented| async { Ok::<_, CallError>(Reply {}) });
    registry
        .register(vec![
            bare,
            Operation::query("demo/shout", "no capital and no end").raw(echo()),
            Operation::query("demo/long", "Says one. Says two.").raw(echo()),
            Operation::query("demo/open", "Is open to all.").public().raw(echo()),
            Operation::mutation("demo/lost", "Names a resource that its input has not.").resource("bucket", "read", "/file").input_schema(Schema::from_value(json!({ "type": "object", "additionalProperties": true, "properties": { "path": { "type": "string", "description": "Where." } } })).unwrap()).raw(echo()),
        ])
        .unwrap();
    let broken = check_catalogue(&registry.view()).join("\n");
    for want in [
        "`demo/bare`: field `/bare` of the input has no description",
        "`demo/shout`: the summary is not one sentence",
        "`demo/long`: the summary is not one sentence",
        "`demo/open`: is public, and not on the list",
        "`demo/lost`: its rule looks at `/file`, which the input has not",
    ] {
        assert!(broken.contains(want), "{want} not in\n{broken}");
    }
    assert_eq!(broken.lines().count(), 5, "{broken}");
}
