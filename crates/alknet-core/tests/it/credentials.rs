//! Credentials at the door: declared, handed over, and out of everybody else's
//! reach.

use alknet_core::{
    Call, CallError, Caller, Change, Context, CredentialName, CredentialState, Dispatcher,
    ErrorCode, Operation, OperationName, PeerId, Registration, Registry, Secret,
};
use serde_json::{Value, json};
use std::sync::{Arc, Weak};

fn operation() -> Registration {
    Operation::query("mail/send", "Sends.")
        .credential("smtp", "robot")
        .credential("smtp", "robot")
        .handler(|cx: Context, _: Value| async move {
            let secret = cx.credential("smtp", "robot")?;
            Ok(secret.expose().len())
        })
}

fn door(registration: Registration) -> Dispatcher {
    let registry = Registry::new();
    registry.register(vec![registration]).unwrap();
    Dispatcher::builder(registry).node("home", [1; 32]).build()
}

async fn call(door: &Dispatcher, caller: Caller) -> Result<Value, CallError> {
    let call = Call::new("mail/send", caller).unwrap().input(&json!({}));
    door.call(call).await?.into_output().into_value()
}

/// Hands a secret over, and keeps a look at it.
fn hand(door: &Dispatcher, text: &str) -> Weak<Secret> {
    let secret = Arc::new(Secret::new(text));
    let seen = Arc::downgrade(&secret);
    let view = door.registry().view();
    let entry = view
        .local()
        .find(|entry| entry.spec().name.as_str() == "mail/send");
    let [slot] = entry.unwrap().credentials() else {
        panic!("one place for one credential");
    };
    slot.hand(CredentialState::Open(secret));
    seen
}

#[tokio::test]
async fn calls_wait_for_nothing_and_say_what_is_missing() {
    let door = door(operation());
    let error = call(&door, Caller::host()).await.unwrap_err();
    assert!(
        error.is(ErrorCode::Unavailable) && !error.retryable,
        "{error:?}"
    );
    assert_eq!(
        error.message,
        "credential `smtp/robot` is missing on `home`; there: alknet credentials put smtp robot"
    );
    hand(&door, "12345");
    assert_eq!(call(&door, Caller::host()).await.unwrap(), 5);
}

#[tokio::test]
async fn who_may_not_call_hears_that_first() {
    let door = door(operation());

    let error = call(&door, Caller::anonymous()).await.unwrap_err();
    assert!(!error.is(ErrorCode::Unavailable), "{error:?}");
    assert!(!error.to_string().contains("smtp"), "{error:?}");
}

#[tokio::test]
async fn a_secret_ends_with_its_registration() {
    let door = door(operation());
    let first = hand(&door, "12345");
    let second = hand(&door, "123456");
    assert!(first.upgrade().is_none(), "the one before it is gone");
    assert!(second.upgrade().is_some());
    let change = Change::ReplaceLocal {
        remove: vec![OperationName::parse("mail/send").unwrap()],
        add: vec![operation()],
    };
    door.registry().apply(change).unwrap();
    assert!(second.upgrade().is_none());
    // The next one of that name begins without.
    assert!(call(&door, Caller::host()).await.is_err());
}

#[tokio::test]
async fn an_operation_of_a_peer_is_given_nothing() {
    let registry = Registry::new();
    let spec = operation().spec().unwrap().clone();
    let name = CredentialName::parse("smtp/robot").unwrap();
    let handler = alknet_core::Handler::Unary(Arc::new(|_, _| {
        Box::pin(async { alknet_core::Output::of(&1) })
    }));
    let imported = Registration::imported(spec, handler, None).with_credential(name);
    let peer = PeerId::parse("nas").unwrap();
    registry
        .apply(Change::SetPeer(peer, vec![imported]))
        .unwrap();
    let view = registry.view();
    assert!(view.peer("nas").all(|entry| entry.credentials().is_empty()));
}

#[test]
fn a_name_that_is_none_is_no_registration() {
    let wrong = Operation::query("mail/send", "Sends.")
        .credential("SMTP", "robot")
        .handler(|_cx: Context, _: Value| async move { Ok(1) });
    let error = Registry::new().register(vec![wrong]).unwrap_err();
    assert!(error.to_string().contains("provider `SMTP`"), "{error}");
}
