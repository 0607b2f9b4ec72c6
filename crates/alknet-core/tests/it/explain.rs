//! What is told of a call agrees with what happens to it: explanations, real
//! calls through the door, and a model written from the contract's text, over
//! generated operations and identities.

mod case;
mod house;
mod model;

use self::{
    case::{Asks, Case, KeyCase, case},
    house::{House, parsed},
    model::{Told, model},
};
use crate::world::{fails, name, peer};
use alknet_core::{
    CallError, ErrorCode, Explanation, GrantTarget, Grants, IdentityProvider, Input, Question,
    RouteStep, Stage, StaticIdentities, Verdict,
    storage::{IdentityChange, PeerRecord, Timestamp},
};
use proptest::prelude::*;
use serde_json::json;

fn blocking<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// Explanation, call and model of one case.
async fn agree(case: &Case) -> Result<(), TestCaseError> {
    let house = House::of(case).await;
    let told = house.explain(case);
    let code = |error: &CallError| error.protocol_code();
    let called = house.call(case).await;
    prop_assert_eq!(
        told.refused.as_ref().and_then(code),
        called.as_ref().err().and_then(code),
        "explained {:#?}, called {:?}",
        &told,
        &called
    );
    match (model(case), &called) {
        (Told::Runs, Ok(_)) => {}
        (Told::Refused(codes), Err(error)) => {
            let code = error.protocol_code().unwrap();
            prop_assert!(codes.contains(&code), "model {:?}, call {}", codes, error);
        }
        (want, got) => prop_assert!(false, "model {:?}, call {:?}", want, got),
    }
    let refusing = |told: &Explanation| {
        let mut steps = told.steps.iter();
        steps.any(|step| step.verdict == Verdict::Refuses)
    };
    prop_assert_eq!(told.is_allowed(), !refusing(&told), "{:#?}", &told);
    prop_assert_eq!(house.door.in_flight(), 0, "asking takes no place");
    // What it says would grant it, does.
    let grants = told.grants();
    prop_assert!(told.refused.is_some() || grants.is_empty());
    if !grants.is_empty() {
        let add = parsed(&grants);
        house
            .apply(IdentityChange::ChangeGrants {
                peer: peer("laptop"),
                add,
                remove: Grants::default(),
            })
            .await;
        let after = house.explain(case);
        prop_assert!(after.is_allowed(), "after {:?}: {:#?}", grants, after);
        let called = house.call(case).await;
        prop_assert!(called.is_ok(), "after {:?}: {:?}", grants, called);
    }
    // Where a right comes from is told of each that decides.
    let standing = house.standing(case);
    for step in told.steps.iter().filter(|step| step.by.is_some()) {
        let from = standing.sources(step).count();
        prop_assert!(from > 0, "{:?} comes from nowhere", step);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn explanations_calls_and_the_model_agree(case in case()) {
        blocking(agree(&case))?;
    }
}

/// The whole matrix where the long proofs run, a sample elsewhere.
fn cases() -> u32 {
    match std::env::var_os("ALKNET_TEST_FULL") {
        Some(_) => 20_000,
        None => 800,
    }
}

#[test]
fn the_matrix_has_every_outcome() {
    // A generator that only ever makes refusals would prove nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut runs, mut granted) = (0, 0);
    let mut codes = std::collections::BTreeMap::<&str, usize>::new();
    for _ in 0..800 {
        let case = proptest::strategy::ValueTree::current(&case().new_tree(&mut runner).unwrap());
        match model(&case) {
            Told::Runs => runs += usize::from(matches!(case.asks, Asks::Rule { .. })),
            Told::Refused(told) => *codes.entry(told[0].as_str()).or_default() += 1,
        }
        let grants = blocking(async { House::of(&case).await.explain(&case).grants().len() });
        granted += usize::from(grants > 0);
    }
    for code in [
        "UNAUTHENTICATED",
        "NOT_FOUND",
        "FORBIDDEN",
        "TOO_LARGE",
        "INVALID_INPUT",
        "APPROVAL_REQUIRED",
    ] {
        assert!(
            codes.get(code).is_some_and(|n| *n >= 3),
            "{code}: {codes:?}"
        );
    }
    assert!(runs > 25 && granted > 50, "{runs} {granted} {codes:?}");
}

/// A case that is refused nowhere.
fn plain() -> Case {
    Case {
        asks: Asks::Rule {
            all: vec!["a:x"],
            any: vec![],
            rules: vec![(0, "read", "/one", false)],
        },
        internal: false,
        approve: false,
        small: false,
        at: None,
        own: vec!["crew"],
        group: None,
        enabled: true,
        access_over: false,
        key: None,
        one: json!("p//a"),
        many: json!([]),
        fits: true,
    }
}

fn steps(told: &Explanation) -> Vec<String> {
    let line = |step: &alknet_core::Step| {
        let sign = match step.verdict {
            Verdict::Passes => "+",
            Verdict::Refuses => "-",
            Verdict::Notes => " ",
        };
        format!("{sign} {}: {}", step.stage, step.text)
    };
    told.steps.iter().map(line).collect()
}

#[tokio::test]
async fn every_step_is_told_in_the_order_of_a_call() {
    let house = House::of(&plain()).await;
    let told = house.explain(&plain());
    assert_eq!(
        steps(&told),
        [
            "+ caller: `laptop` is a peer here",
            "+ caller: known by node key `07070707…`",
            "+ resolve: `demo/thing` is a query of this node",
            "+ visibility: can be called from outside",
            "+ scope: scope `a:x` is held",
            "  limits: at most 4096 calls in flight of the node; 256 of one caller",
            "+ resource: resource `bucket:p/a=read` is held",
            "+ input: the input fits its schema",
        ]
    );
    let standing = house.standing(&plain());
    let scope = &told.steps[4];
    assert_eq!(scope.by, Some(GrantTarget::parse("a:*").unwrap()));
    let sources: Vec<String> = standing.sources(scope).map(ToString::to_string).collect();
    assert_eq!(sources, ["role `crew`"]);
}

#[tokio::test]
async fn everything_that_is_missing_is_told_at_once() {
    let mut case = plain();
    case.own = vec![];
    case.fits = false;
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let refused: Vec<String> = steps(&told)
        .into_iter()
        .filter(|line| line.starts_with('-'))
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert_eq!(refused[0], "- scope: scope `a:x` is missing");
    assert_eq!(
        refused[1],
        "- resource: resource `bucket:p/a=read` is missing"
    );
    assert!(refused[2].starts_with("- input: "), "{refused:?}");
    // The first decides what a call is told.
    let error = fails(house.call(&case).await, ErrorCode::Forbidden);
    assert_eq!(told.refused, Some(error));
    // No grant mends an input.
    assert!(told.grants().is_empty());
    case.fits = true;
    assert_eq!(
        house.explain(&case).grants(),
        ["a:x", "bucket:p/a=read"],
        "both are needed"
    );
}

#[tokio::test]
async fn a_denial_names_the_grant_that_denies_and_suggests_none() {
    let mut case = plain();
    case.group = Some(vec!["guard"]);
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let step = told.steps.iter();
    let step = step
        .clone()
        .find(|step| step.verdict == Verdict::Refuses)
        .unwrap();
    assert_eq!(
        step.by,
        Some(GrantTarget::parse("!bucket:p/*=read,write").unwrap())
    );
    let standing = house.standing(&case);
    let sources: Vec<String> = standing.sources(step).map(ToString::to_string).collect();
    assert_eq!(sources, ["role `guard` of group `crews`"]);
    assert!(told.grants().is_empty());
}

#[tokio::test]
async fn a_key_is_asked_after_its_peer() {
    let mut case = plain();
    case.key = Some(KeyCase {
        over: false,
        grants: Some(vec!["a:x", "bucket:q=read"]),
    });
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let of_key: Vec<_> = told.steps.iter().filter(|step| step.of_key).collect();
    assert_eq!(
        of_key
            .iter()
            .map(|step| (step.stage, step.verdict))
            .collect::<Vec<_>>(),
        [
            (Stage::Scope, Verdict::Passes),
            (Stage::Resource, Verdict::Refuses)
        ]
    );
    let standing = house.standing(&case);
    let sources: Vec<String> = standing
        .sources(of_key[0])
        .map(ToString::to_string)
        .collect();
    assert_eq!(sources, ["grant of the key"]);
    assert!(told.grants().is_empty(), "no grant widens a key");
}

#[tokio::test]
async fn a_peer_that_is_kept_out_is_told_what_it_would_hold() {
    let mut case = plain();
    case.enabled = false;
    let house = House::of(&case).await;
    let told = house.explain(&case);
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let lines = steps(&told);
    assert_eq!(lines[0], "- caller: `laptop` is disabled");
    assert!(
        lines.contains(&"+ scope: scope `a:x` is held".to_owned()),
        "{lines:?}"
    );
}

#[tokio::test]
async fn without_an_input_nothing_is_said_of_what_it_would_name() {
    let house = House::of(&plain()).await;
    let told = house.explain_with(&plain(), None);
    assert!(told.is_allowed(), "{told:?}");
    assert_eq!(
        steps(&told)[4..],
        [
            "+ scope: scope `a:x` is held",
            "  resource: takes `bucket:…=read`, which the input names",
            "  limits: at most 4096 calls in flight of the node; 256 of one caller",
            "  input: no input is given: what it names, and whether it fits, is not decided",
        ]
    );
    let mut case = plain();
    case.own = vec![];
    let house = House::of(&case).await;
    let told = house.explain_with(&case, None);
    assert!(told.refused.as_ref().unwrap().is(ErrorCode::Forbidden));
    assert_eq!(told.grants(), ["a:x"], "the resource is not known");
    let lines = steps(&told);
    let refused = "- resource: no resource `bucket:…=read` is held".to_owned();
    assert!(lines.contains(&refused), "{lines:?}");
    // An operation that takes nothing is asked about as it is called.
    let other = Question {
        caller: &house.standing(&case),
        operation: name("demo/other"),
        route: vec![],
        input: None,
    };
    let told = house.door.explain(other).unwrap();
    assert!(steps(&told).contains(&"+ input: the input fits its schema".to_owned()));
}

#[tokio::test]
async fn a_peer_without_a_key_cannot_be_known() {
    let house = House::of(&plain()).await;
    let nobody = PeerRecord::new(peer("paper"), Timestamp(0));
    house.apply(IdentityChange::AddPeer(nobody)).await;
    let standing = house.index.standing("paper", None, &*house.index).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![],
        input: Some(Input::Value(json!({}))),
    };
    let told = house.door.explain(question).unwrap();
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let nobody = house.index.standing("nobody", None, &*house.index);
    assert!(nobody.is_none());
}

#[tokio::test]
async fn whoever_is_barred_elsewhere_is_told_so() {
    let house = House::of(&plain()).await;
    let nobody = StaticIdentities::default();
    let standing = house.index.standing("laptop", None, &nobody).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![],
        input: Some(Input::Value(plain().input())),
    };
    let told = house.door.explain(question).unwrap();
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let lines = steps(&told);
    assert_eq!(
        lines[1..3],
        [
            "  caller: not by node key `07070707…`: banned",
            "- caller: is banned"
        ]
    );
}

#[tokio::test]
async fn any_peer_is_no_question() {
    let house = House::of(&plain()).await;
    let standing = house.index.standing("laptop", None, &*house.index).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![RouteStep::Any],
        input: Some(Input::default()),
    };
    let error = house.door.explain(question).unwrap_err();
    assert!(error.is(ErrorCode::InvalidInput), "{error}");
    assert!(house.index.epoch() > 0 && house.registry.view().revision() > 0);
}
