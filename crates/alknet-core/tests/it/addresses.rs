//! Addresses and names: what the gate lets through, what a permit does.

use crate::world::{World, fails};
use alknet_core::{
    CallError, Context, ErrorCode, Handler, Operation, Output, Registration, Registry,
};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};

/// Pretends that every name resolves to `10.0.0.5`, and asks for that.
fn vetting() -> Handler {
    Handler::Unary(Arc::new(|cx: Context, input| {
        Box::pin(async move {
            let input = input.into_value()?;
            let to = input["to"].as_str().unwrap_or_default();
            let port = to.rsplit(':').next().unwrap_or_default();
            let resolved = to.parse().or_else(|_| format!("10.0.0.5:{port}").parse());
            let address: SocketAddr = resolved.map_err(|_| CallError::not_found("port"))?;
            cx.permit().check_address("dial", to, address)?;
            Ok(Output::Value(json!(address.to_string())))
        })
    }))
}

fn dial(resolves: bool) -> Registration {
    let operation = Operation::query("demo/thing", "Dials.")
        .requires("demo:thing")
        .resource("net", "dial", "/to");
    let operation = if resolves {
        operation.or_resolved()
    } else {
        operation
    };
    operation.raw(vetting())
}

async fn check(resolves: bool, grants: &[&str], to: &str, want: Result<&str, &str>) {
    let world = World::new(vec![dial(resolves)]);
    let bob = world.caller("bob", grants);
    let got = world.call(&bob, "demo/thing", json!({ "to": to })).await;
    match want {
        Ok(address) => assert_eq!(got.unwrap(), address, "{grants:?} {to}"),
        Err(missing) => {
            let details = fails(got, ErrorCode::Forbidden).details.unwrap();
            // Against a denial no grant helps.
            let told = details.get("denied").unwrap_or(&details["grant"]);
            assert_eq!(told, missing, "{grants:?} {to}");
        }
    }
}

#[tokio::test]
async fn a_name_is_let_through_for_an_address_only_if_the_handler_asks_for_it() {
    let range = ["demo:thing", "net:10.0.0.0/8:80=dial"];
    check(true, &range, "db.lan:80", Ok("10.0.0.5:80")).await;
    check(false, &range, "db.lan:80", Err("net:db.lan:80=dial")).await;
    // Another port, and the name itself.
    check(true, &range, "db.lan:81", Err("net:db.lan:81=dial")).await;
    let denied = ["demo:thing", "net:10.0.0.0/8=dial", "!net:db.lan=dial"];
    check(true, &denied, "db.lan:80", Err("!net:db.lan=dial")).await;
}

#[tokio::test]
async fn a_whole_operation_is_for_public_addresses() {
    let whole = ["demo/thing"];
    check(true, &whole, "8.8.8.8:80", Ok("8.8.8.8:80")).await;
    for (to, missing) in [
        ("10.0.0.5:80", "net:10.0.0.5:80=dial"),
        ("127.0.0.1:80", "net:127.0.0.1:80=dial"),
        ("[::1]:80", "net:[::1]:80=dial"),
        ("[64:ff9b::7f00:1]:80", "net:[64:ff9b::7f00:1]:80=dial"),
    ] {
        check(true, &whole, to, Err(missing)).await;
        check(false, &whole, to, Err(missing)).await;
    }
    // The name is let through, its address is not; such a name would do.
    let missing = Err("net:db.lan:80=dial");
    check(true, &whole, "db.lan:80", missing).await;
    let missing = Err("net:10.0.0.5:80=dial");
    check(true, &whole, "example.com:80", missing).await;
}

#[tokio::test]
async fn grants_match_what_an_address_stands_for_and_denials_either() {
    let held = ["demo:thing", "net:10.0.0.0/8=dial"];
    let nat64 = "[64:ff9b::a00:5]:80";
    check(true, &held, nat64, Ok(nat64)).await;
    let wide = ["demo:thing", "net:::/0=dial"];
    check(true, &wide, nat64, Err("net:[64:ff9b::a00:5]:80=dial")).await;
    let form = ["demo:thing", "net:*=dial", "!net:64:ff9b::/96=dial"];
    check(true, &form, nat64, Err("!net:64:ff9b::/96=dial")).await;
}

#[tokio::test]
async fn a_permit_tells_when_an_address_is_lost() {
    let world = World::new(vec![dial(true)]);
    let bob = world.caller("bob", &["demo:thing", "net:db.lan=dial"]);
    let permit = world.door.authorize(&bob, "demo/thing").unwrap();
    let address: SocketAddr = "10.0.0.5:80".parse().unwrap();
    permit.check_address("dial", "db.lan:80", address).unwrap();
    let lost = permit.lost(|permit| permit.check_address("dial", "db.lan:80", address));
    tokio::pin!(lost);
    assert!(futures::poll!(&mut lost).is_pending());
    world.caller("bob", &["demo:thing", "net:db.lan:81=dial"]);
    assert!(lost.await.is(ErrorCode::Forbidden));
}

#[test]
fn only_a_rule_over_addresses_resolves() {
    let wrong = Operation::query("demo/thing", "Reads.")
        .resource("bucket", "read", "/file")
        .or_resolved()
        .raw(vetting());
    let errors = Registry::new().register(vec![wrong]).unwrap_err();
    assert!(errors.to_string().contains("or_resolved"), "{errors}");
}
