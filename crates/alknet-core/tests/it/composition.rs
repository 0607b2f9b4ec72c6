//! Operations that call operations: under declared rights, within a declared
//! reach, and never with those of whoever called them.

use crate::world::{Audited, World, echo, fails, identity, key, peer};
use alknet_core::{
    Call, Caller, CallerKind, Change, Context, ErrorCode, Handler, Input, Operation,
    OperationBuilder, Originator, Output, Registration, TraceContext,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

fn query(name: &str) -> OperationBuilder {
    Operation::query(name, "Is part of something.")
}

/// Calls `target` with its own input.
fn passes_on(builder: OperationBuilder, target: &'static str) -> Registration {
    builder.raw(Handler::Unary(Arc::new(move |cx, input| {
        Box::pin(async move { cx.env().call_output(target, input).await })
    })))
}

/// Answers with what `look` sees of its context.
fn tells(
    builder: OperationBuilder,
    look: impl Fn(&Context) -> Value + Send + Sync + 'static,
) -> Registration {
    builder.raw(Handler::Unary(Arc::new(move |cx, _| {
        let seen = look(&cx);
        Box::pin(async move { Ok(Output::Value(seen)) })
    })))
}

#[tokio::test]
async fn a_composed_call_with_a_restricted_child_under_a_too_weak_parent_is_refused() {
    let child = || query("files/remove").requires("fs:write").raw(echo());
    let weak = passes_on(
        query("demo/weak")
            .authority("weak", &["fs:read"], &[])
            .reaches("files/*"),
        "files/remove",
    );
    let strong = passes_on(
        query("demo/strong")
            .authority("strong", &["fs:write"], &[])
            .reaches("files/*"),
        "files/remove",
    );
    let world = World::new(vec![child(), weak, strong]);
    // Whoever calls: their own rights count for nothing below the root.
    for grants in [&["admin"][..], &["demo:*"]] {
        let bob = world.caller("bob", grants);
        let error = fails(
            world.call(&bob, "demo/weak", json!({})).await,
            ErrorCode::Forbidden,
        );
        assert!(
            error
                .message
                .starts_with("`weak` may not call `files/remove`"),
            "{error}"
        );
        world.call(&bob, "demo/strong", json!({})).await.unwrap();
    }
    let bob = world.caller("bob", &["demo:*"]);
    fails(
        world.call(&bob, "files/remove", json!({})).await,
        ErrorCode::Forbidden,
    );
}

#[tokio::test]
async fn resources_are_those_of_the_authority() {
    let read = query("files/read")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .raw(echo());
    let reader = query("demo/reader")
        .authority(
            "reader",
            &["fs:read"],
            &["bucket:www/**=read", "!bucket:www/secret/**=read"],
        )
        .reaches("files/read");
    let world = World::new(vec![read, passes_on(reader, "files/read")]);
    let root = world.caller("root", &["admin"]);
    world
        .call(&root, "demo/reader", json!({ "file": "www/a" }))
        .await
        .unwrap();
    for file in ["logs/a", "www/secret/a"] {
        fails(
            world
                .call(&root, "demo/reader", json!({ "file": file }))
                .await,
            ErrorCode::Forbidden,
        );
    }
}

#[tokio::test]
async fn outside_its_reach_everything_is_not_found() {
    let composes = |name: &str, target: &'static str| {
        passes_on(
            query(name)
                .authority("own", &["*"], &["peer:*=*"])
                .reaches("demo/leaf")
                .reaches("files/*"),
            target,
        )
    };
    let world = World::new(vec![
        query("demo/leaf").raw(echo()),
        query("demo/leaf-two").raw(echo()),
        query("files/deep/read").raw(echo()),
        composes("top/leaf", "demo/leaf"),
        composes("top/two", "demo/leaf-two"),
        composes("top/deep", "files/deep/read"),
        composes("top/list", "services/list"),
        composes("top/never", "demo/never"),
        composes("top/garbage", "no name"),
    ]);
    // The caller itself could call every one of them.
    let root = world.caller("root", &["admin"]);
    for (operation, found) in [
        ("top/leaf", true),
        ("top/two", false),
        ("top/deep", true),
        ("top/list", false),
        ("top/never", false),
        ("top/garbage", false),
    ] {
        let outcome = world.call(&root, operation, json!({})).await;
        match found {
            true => drop(outcome.unwrap()),
            false => {
                let error = fails(outcome, ErrorCode::NotFound);
                assert!(error.details.unwrap().get("suggestions").is_none());
            }
        }
    }
}

#[tokio::test]
async fn a_reach_is_pinned_to_its_peer() {
    let on = |name: &str, at: &'static str| {
        query(name)
            .authority("own", &["*"], &[])
            .reaches_on("nas", "files/*")
            .raw(Handler::Unary(Arc::new(move |cx, input| {
                Box::pin(async move {
                    let env = if at.is_empty() {
                        cx.env()
                    } else {
                        cx.env().on(peer(at))
                    };
                    env.call_output("files/read", input).await
                })
            })))
    };
    let world = World::new(vec![
        query("files/read").raw(echo()),
        on("top/here", ""),
        on("top/nas", "nas"),
        on("top/pi", "pi"),
    ]);
    for id in ["nas", "pi"] {
        world
            .registry
            .apply(Change::SetPeer(
                peer(id),
                vec![
                    query("files/read").raw(echo()),
                    query("shell/exec").raw(echo()),
                ],
            ))
            .unwrap();
    }
    let root = world.caller("root", &["admin"]);
    world.call(&root, "top/nas", json!({})).await.unwrap();
    for elsewhere in ["top/here", "top/pi"] {
        fails(
            world.call(&root, elsewhere, json!({})).await,
            ErrorCode::NotFound,
        );
    }
}

#[tokio::test]
async fn without_a_declared_authority_nothing_is_composed() {
    let world = World::new(vec![
        query("demo/leaf").public().raw(echo()),
        passes_on(query("demo/top"), "demo/leaf"),
    ]);
    fails(
        world.call(&Caller::host(), "demo/top", json!({})).await,
        ErrorCode::NotFound,
    );
}

#[tokio::test]
async fn an_imported_leaf_composes_nothing_and_keeps_its_own_credential() {
    struct Token(&'static str);
    let leaf = query("pets/find")
        .authority("sly", &["*"], &[])
        .reaches("*")
        .capability(Token("leaf"))
        .raw(Handler::Unary(Arc::new(|cx, input| {
            Box::pin(async move {
                let own = cx.capability::<Token>().map(|token| token.0);
                let tried = cx.env().call_output("demo/leaf", input).await;
                Ok(Output::Value(json!([
                    own,
                    tried.err().map(|error| error.code)
                ])))
            })
        })));
    let bare = tells(query("demo/bare").internal(), |cx| {
        json!(cx.capability::<Token>().is_some())
    });
    let asks = passes_on(
        query("demo/asks")
            .authority("asks", &["*"], &[])
            .reaches("*")
            .capability(Token("parent")),
        "demo/bare",
    );
    let world = World::new(vec![query("demo/leaf").public().raw(echo()), bare, asks]);
    // As an import: what it declares of authority is dropped.
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), vec![leaf]))
        .unwrap();
    let on_nas = world
        .call_on(&world.caller("root", &["admin"]), "nas", "pets/find")
        .await
        .unwrap();
    assert_eq!(on_nas, json!(["leaf", "NOT_FOUND"]));
    // A child without a capability does not find its parent's.
    assert_eq!(
        world
            .call(&Caller::host(), "demo/asks", json!({}))
            .await
            .unwrap(),
        json!(false)
    );
}

#[tokio::test]
async fn a_child_sees_its_parents_authority_and_who_started_it_all() {
    let look = |cx: &Context| {
        json!({
            "principal": cx.principal().id(),
            "kind": format!("{:?}", cx.principal().kind()),
            "originator": cx.originator().map(ToString::to_string),
            "parent": cx.parent_id().is_some(),
            "key": cx.idempotency_key(),
            "trace": cx.trace().map(|trace| trace.0.clone()),
            "answers": cx.interaction().can_answer(),
        })
    };
    let middle = passes_on(
        query("demo/middle")
            .internal()
            .authority("middle", &["demo:*"], &[])
            .reaches("demo/tells"),
        "demo/tells",
    );
    let top = passes_on(
        Operation::mutation("demo/top", "Starts.")
            .authority("top", &["demo:*"], &[])
            .reaches("demo/middle"),
        "demo/middle",
    );
    let world = World::with(
        vec![tells(query("demo/tells"), look), middle, top],
        |door| door.node("home", [7; 32]),
    );
    let bob = world.caller("bob", &["demo:*"]);
    let mut call = Call::new("demo/top", bob.clone())
        .unwrap()
        .idempotency_key("k");
    call.trace = Some(TraceContext("00-trace".into()));
    let seen = world
        .door
        .call(call)
        .await
        .unwrap()
        .into_output()
        .into_value()
        .unwrap();
    assert_eq!(
        seen,
        json!({ "principal": "middle", "kind": "Authority", "originator": "home/bob", "parent": true, "key": null, "trace": "00-trace", "answers": false })
    );
    // What came with an originator keeps it.
    let mut call = Call::new("demo/top", bob.clone()).unwrap();
    call.originator = Some(Originator {
        node: "laptop".into(),
        label: "alice".into(),
    });
    let seen = world
        .door
        .call(call)
        .await
        .unwrap()
        .into_output()
        .into_value()
        .unwrap();
    assert_eq!(seen["originator"], "laptop/alice");
    // At the root, it is the caller that was checked.
    let seen = world.call(&bob, "demo/tells", json!({})).await.unwrap();
    assert_eq!(
        (&seen["principal"], &seen["kind"], &seen["originator"]),
        (&json!("bob"), &json!("Peer"), &json!(null))
    );
}

#[tokio::test]
async fn an_originator_is_no_authority() {
    let world = World::new(vec![query("demo/thing").raw(echo())]);
    world.caller("root", &["admin"]);
    let mut call = Call::new("demo/thing", world.caller("eve", &[])).unwrap();
    call.originator = Some(Originator {
        node: "node".into(),
        label: "root".into(),
    });
    fails(world.door.call(call).await, ErrorCode::Forbidden);
}

struct Dropped(Arc<AtomicUsize>);
impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Never answers, and notes that it began and that it was dropped.
fn stuck(name: &str, begun: &Arc<AtomicUsize>, dropped: &Arc<AtomicUsize>) -> Registration {
    let (begun, dropped) = (begun.clone(), dropped.clone());
    query(name)
        .internal()
        .raw(Handler::Unary(Arc::new(move |_, _| {
            let guard = Dropped(dropped.clone());
            begun.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let _guard = guard;
                std::future::pending().await
            })
        })))
}

#[tokio::test]
async fn cancelling_the_root_ends_the_whole_tree() {
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let composes = |name: &str, target: &'static str| {
        passes_on(
            query(name).authority("own", &["*"], &[]).reaches("*"),
            target,
        )
    };
    let both = query("demo/both")
        .authority("own", &["*"], &[])
        .reaches("*")
        .raw(Handler::Unary(Arc::new(|cx, _| {
            Box::pin(async move {
                let env = cx.env();
                let (a, b) = tokio::join!(
                    env.call_output("demo/one", Input::default()),
                    env.call_output("demo/stuck", Input::default())
                );
                a.and(b)
            })
        })));
    let (sink, audited) = Audited::start();
    let world = World::with(
        vec![
            stuck("demo/stuck", &begun, &dropped),
            composes("demo/one", "demo/stuck"),
            both,
            composes("demo/top", "demo/both"),
        ],
        |door| door.audit(sink),
    );
    let host = Caller::host();
    let mut running = Box::pin(world.call(&host, "demo/top", json!({})));
    while begun.load(Ordering::Relaxed) < 2 {
        assert!(futures::poll!(&mut running).is_pending());
    }
    assert_eq!(world.door.in_flight(), 5);
    drop(running);
    assert_eq!(
        (dropped.load(Ordering::Relaxed), world.door.in_flight()),
        (2, 0)
    );
    let rows = audited.rows().await;
    assert_eq!(rows.len(), 5);
    assert!(
        rows.iter().all(|row| row.outcome.as_str() == "CANCELLED"),
        "{rows:?}"
    );
}

#[tokio::test]
async fn ten_thousand_cancelled_calls_leave_nothing_behind() {
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let top = passes_on(
        query("demo/top").authority("own", &["*"], &[]).reaches("*"),
        "demo/stuck",
    );
    let world = World::new(vec![stuck("demo/stuck", &begun, &dropped), top]);
    let host = Caller::host();
    for _ in 0..10_000 {
        let mut call = Box::pin(world.call(&host, "demo/top", json!({})));
        assert!(futures::poll!(&mut call).is_pending());
    }
    assert_eq!(
        (
            begun.load(Ordering::Relaxed),
            dropped.load(Ordering::Relaxed)
        ),
        (10_000, 10_000)
    );
    assert_eq!(world.door.in_flight(), 0);
}

#[tokio::test]
async fn streams_and_channels_compose_like_calls() {
    let numbers = Operation::subscription("demo/numbers", "Counts.")
        .internal()
        .stream(|_, to: u32| async move { Ok(futures::stream::iter((0..to).map(Ok))) });
    let squares = Operation::subscription("demo/squares", "Squares.")
        .authority("squares", &["demo:numbers"], &[])
        .reaches("demo/numbers")
        .stream(|cx, to: u32| async move {
            let items = cx.env().subscribe("demo/numbers", &to).await?;
            Ok(items.map(|item| item.and_then(|item| item.parse::<u32>()).map(|n| n * n)))
        });
    let inner = Operation::channel("demo/inner", "Sends back what it gets.")
        .internal()
        .channel::<Value, String, _, _, _>(|_, _, opening| async move {
            let mut end = opening.accept(&"open")?;
            while let Ok(Some(chunk)) = end.rx.recv().await {
                let _ = end.tx.send_chunk(chunk).await;
            }
            end.tx.end();
            Ok("inner is over")
        });
    let outer = Operation::channel("demo/outer", "Opens another.")
        .authority("outer", &["demo:inner"], &[])
        .reaches("demo/inner")
        .channel::<Value, String, _, _, _>(|cx, _, opening| async move {
            let mut below = cx.env().open("demo/inner", &()).await?;
            let mut end = opening.accept_output(below.reply)?;
            while let Ok(Some(chunk)) = end.rx.recv().await {
                let _ = below.channel.tx.send_chunk(chunk).await;
                if let Ok(Some(back)) = below.channel.rx.recv().await {
                    let _ = end.tx.send_chunk(back).await;
                }
            }
            below.channel.tx.end();
            below.done.await?.into_value()
        });
    let world = World::new(vec![numbers, squares, inner, outer]);
    let call = Call::new("demo/squares", Caller::host()).unwrap().input(&4);
    let items: Vec<u32> = world
        .door
        .subscribe(call)
        .await
        .unwrap()
        .map(|item| item.unwrap().parse::<u32>().unwrap())
        .collect()
        .await;
    assert_eq!(items, [0, 1, 4, 9]);
    let mut outer = world
        .door
        .open(Call::new("demo/outer", Caller::host()).unwrap())
        .await
        .unwrap();
    assert_eq!(outer.reply.into_value().unwrap(), "open");
    outer.channel.tx.send("hello".into()).await.unwrap();
    assert_eq!(
        outer.channel.rx.recv().await.unwrap().unwrap().bytes,
        "hello"
    );
    outer.channel.tx.end();
    assert_eq!(
        outer.done.await.unwrap().into_value().unwrap(),
        "inner is over"
    );
}

#[tokio::test]
async fn dropping_a_composed_stream_drops_the_one_below() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let seen = dropped.clone();
    let below = Operation::subscription("demo/below", "Never ends.")
        .internal()
        .raw(Handler::Stream(Arc::new(move |_, _| {
            let guard = Dropped(seen.clone());
            Box::pin(async move {
                let items = futures::stream::pending().map(move |()| {
                    let _ = &guard;
                    Ok(Output::Value(Value::Null))
                });
                Ok(items.boxed())
            })
        })));
    let above = Operation::subscription("demo/above", "Passes items on.")
        .authority("own", &["*"], &[])
        .reaches("*")
        .raw(Handler::Stream(Arc::new(|cx, _| {
            Box::pin(async move { Ok(cx.env().subscribe("demo/below", &()).await?.boxed()) })
        })));
    let world = World::new(vec![below, above]);
    let mut items = world
        .door
        .subscribe(Call::new("demo/above", Caller::host()).unwrap())
        .await
        .unwrap();
    assert!(futures::poll!(items.next()).is_pending());
    assert_eq!(world.door.in_flight(), 2);
    drop(items);
    assert_eq!(
        (dropped.load(Ordering::Relaxed), world.door.in_flight()),
        (1, 0)
    );
}

#[tokio::test]
async fn dropping_a_channel_ends_its_handler_and_those_below() {
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let top = Operation::channel("demo/top", "Opens, then calls.")
        .authority("own", &["*"], &[])
        .reaches("*")
        .raw(Handler::Channel(Arc::new(|cx, _, opening| {
            Box::pin(async move {
                let _end = opening.accept(&())?;
                cx.env().call_output("demo/stuck", Input::default()).await
            })
        })));
    let world = World::new(vec![stuck("demo/stuck", &begun, &dropped), top]);
    let channel = world
        .door
        .open(Call::new("demo/top", Caller::host()).unwrap())
        .await
        .unwrap();
    while begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(channel);
    while world.door.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_nested_internal_error_keeps_the_id_under_which_it_was_logged() {
    let fails_inside = tells(query("demo/fails").internal(), |_| panic!("hunter2"));
    let top = passes_on(
        query("demo/top").authority("own", &["*"], &[]).reaches("*"),
        "demo/fails",
    );
    let (sink, audited) = Audited::start();
    let world = World::with(vec![fails_inside, top], |door| door.audit(sink));
    let error = fails(
        world.call(&Caller::host(), "demo/top", json!({})).await,
        ErrorCode::Internal,
    );
    let rows = audited.rows().await;
    let inner = rows
        .iter()
        .find(|row| row.operation == "demo/fails")
        .unwrap();
    assert_eq!(error.details.unwrap()["call_id"], inner.call_id);
    assert!(!error.message.contains("hunter2"));
}

#[tokio::test]
async fn a_revoked_root_does_not_stop_what_its_operation_does_under_its_own_authority() {
    // Each call is decided when it is made, for whoever makes it.
    let world = World::new(vec![]);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inner = gate.clone();
    let top = query("demo/top")
        .authority("own", &["*"], &[])
        .reaches("*")
        .raw(Handler::Unary(Arc::new(move |cx, input| {
            let gate = inner.clone();
            Box::pin(async move {
                drop(gate.acquire().await);
                cx.env().call_output("demo/leaf", input).await
            })
        })));
    world
        .registry
        .register(vec![top, query("demo/leaf").internal().raw(echo())])
        .unwrap();
    let bob = world.caller("bob", &["demo:top"]);
    let mut running = Box::pin(world.call(&bob, "demo/top", json!("x")));
    assert!(futures::poll!(&mut running).is_pending());
    world.ids.put(key("bob"), identity("bob", &[]));
    gate.add_permits(1);
    assert_eq!(running.await.unwrap(), "x");
    fails(
        world.call(&bob, "demo/top", json!("x")).await,
        ErrorCode::Forbidden,
    );
    assert_eq!(bob.kind(), CallerKind::Peer);
}
