//! What the fuzzer calls: the parts of a command line that people type.

use crate::{
    duration,
    escapes::{Escapes, Key},
    input::{self, Words},
    when,
};
use serde_json::Value;
use std::time::Duration;

/// The input that words make; files in them are left out.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub fn words(words: &[String], schema: Option<&Value>) -> Result<Value, String> {
    let said = |error: input::InputError| error.to_string();
    match input::read(words).map_err(said)? {
        Words::Whole(value) => Ok(value),
        Words::Stdin => Ok(Value::Null),
        Words::Fields(fields) => input::build(fields, schema).map_err(said),
    }
}

/// A duration, with its forms for a sentence and for a table.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub fn span(text: &str) -> Result<(Duration, String, String), String> {
    let span = duration::parse(text)?;
    Ok((span, duration::in_words(span), duration::short(span)))
}

/// A time, or how long ago; as it is sent, and its forms for people.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub fn time(text: &str) -> Result<(String, String, String), String> {
    let sent = when::parse(text)?;
    Ok((when::stamp(&sent), when::relative(&sent), sent))
}

/// What pieces of typing make of escapes: what is sent on, with `~?` and `~.`
/// told by a word in its place.
pub fn typed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Vec<u8>, &'static str>> {
    let (mut escapes, mut keys) = (Escapes::new(true), Vec::new());
    for piece in pieces {
        for key in escapes.sort(piece) {
            match (keys.last_mut(), key) {
                (Some(Err("leave")), _) => return keys,
                (Some(Ok(sent)), Key::Send(more)) => Vec::extend(sent, more),
                (_, Key::Send(sent)) => keys.push(Ok(sent)),
                (_, Key::Help) => keys.push(Err("help")),
                (_, Key::Leave) => keys.push(Err("leave")),
            }
        }
    }
    keys
}
