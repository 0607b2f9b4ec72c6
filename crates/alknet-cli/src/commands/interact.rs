//! What a call says and asks while it runs.

use crate::{
    app::App,
    node_access::{Interaction, InteractionEvent},
    output::{Out, cell},
    prompt,
    table::one_line,
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};

/// Events that may wait while a person reads.
const EVENTS_MAX: usize = 16;

/// Shows progress and puts questions until dropped.
#[derive(Debug)]
pub(crate) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens to a call. Progress is shown on a terminal only; questions are put
/// if a person can be asked and standard input is not data.
pub(crate) fn listen(app: &App, stdin_is_data: bool) -> (Interaction, Listener) {
    let out = app.out;
    let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
    let can_answer = out.can_ask() && !stdin_is_data;
    let task = tokio::spawn(async move {
        while let Some(event) = incoming.recv().await {
            handle(out, event).await;
        }
    });
    (Interaction::to(events, can_answer), Listener(task))
}

async fn handle(out: Out, event: InteractionEvent) {
    match event {
        InteractionEvent::Progress(progress) => {
            if out.attended {
                out.say(&sentence(&progress));
            }
        }
        InteractionEvent::Ask { question, answer } => {
            // Without an answer the sender is dropped, which tells the other
            // side that nobody is there.
            if let Ok(text) = prompt::ask(format!("{} ", sentence(&question))).await {
                let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                let _ = answer.send(value);
            }
        }
    }
}

/// The text in it that is meant for people, or all of it.
fn sentence(value: &Value) -> String {
    let texts = ["message", "question", "text"];
    let text = texts
        .iter()
        .find_map(|name| value.get(name).and_then(Value::as_str));
    one_line(&text.map_or_else(|| cell(Some(value)), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_read_the_message() {
        assert_eq!(
            sentence(&json!({ "message": "half\u{1b} way", "done": 5 })),
            "half  way"
        );
        assert_eq!(sentence(&json!("sure?")), "sure?");
        assert_eq!(sentence(&json!({ "done": 5 })), r#"{"done":5}"#);
    }
}
