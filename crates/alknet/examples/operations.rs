//! Operations of every kind over one small thing, a notebook: typed input and
//! output, errors, access rules, limits, progress, questions, and an operation
//! that calls another one.
//!
//! `cargo run -p alknet --example operations -- ./data`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout)]

use alknet::{
    CallError, ChannelOpening, Context, ErrorCode, ErrorSpec, Node, Operation, Registration,
};
use futures::{Stream, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    sync::watch,
};

/// Most notes of a book.
pub const NOTES_MAX: usize = 100;
/// Longest note, in bytes.
pub const NOTE_BYTES_MAX: u64 = 4096;

/// Books with their notes. Handlers share it, and followers wait for changes.
#[derive(Clone, Default)]
pub struct Notebook(Arc<watch::Sender<BTreeMap<String, Vec<String>>>>);

/// Names a book.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// Its name, such as `home/garden`.
    book: String,
}

/// A note to be written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNote {
    /// In which book.
    book: String,
    /// What it says.
    #[schemars(length(min = 1, max = 4096))]
    text: String,
}

/// What to follow.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// Which book.
    book: String,
    /// Only notes with a greater number; 0 for all.
    #[serde(default)]
    after: usize,
}

/// A note that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Note {
    /// Its number in the book, from 1.
    pub number: usize,
    /// What it says.
    pub text: String,
}

/// How many notes there are, or were.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// That many.
    pub notes: usize,
}

impl Notebook {
    fn list(&self, book: &str) -> Vec<Note> {
        let books = self.0.borrow();
        let texts = books.get(book).into_iter().flatten();
        let numbered = texts.zip(1..).map(|(text, number)| Note {
            number,
            text: text.clone(),
        });
        numbered.collect()
    }

    fn add(&self, book: &str, text: &str) -> Result<Note, CallError> {
        let mut added = Err(CallError::domain("BOOK_FULL", "this book is full"));
        self.0.send_modify(|books| {
            let notes = books.entry(book.to_owned()).or_default();
            if notes.len() < NOTES_MAX {
                notes.push(text.to_owned());
                added = Ok(Note {
                    number: notes.len(),
                    text: text.to_owned(),
                });
            }
        });
        added.map_err(|error| error.with_details(json!({ "notes_max": NOTES_MAX })))
    }

    fn clear(&self, book: &str) -> usize {
        let mut notes = 0;
        self.0.send_modify(|books| {
            notes = books.remove(book).map_or(0, |notes| notes.len());
        });
        notes
    }

    /// Notes behind a number, and then each one when it comes.
    fn follow(
        &self,
        book: String,
        after: usize,
    ) -> impl Stream<Item = Result<Note, CallError>> + use<> {
        let (changes, notebook) = (self.0.subscribe(), self.clone());
        stream::unfold((changes, after), move |(mut changes, after)| {
            let (notebook, book) = (notebook.clone(), book.clone());
            async move {
                loop {
                    // Marked as seen before it is read: no change is missed.
                    changes.borrow_and_update();
                    let mut notes = notebook.list(&book).into_iter();
                    if let Some(note) = notes.find(|note| note.number > after) {
                        let number = note.number;
                        return Some((Ok(note), (changes, number)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        })
    }
}

/// A query: reads, and may be repeated.
fn list(notebook: Notebook) -> Registration {
    Operation::query("notes/list", "Lists the notes of a book.")
        .requires("notes:read")
        .resource("topic", "read", "/book")
        .example(json!({ "book": "home/garden" }), json!([]))
        .handler(move |_cx, input: Book| {
            let notes = notebook.list(&input.book);
            async move { Ok(notes) }
        })
}

/// A mutation: has effects, an error of its own, and limits.
fn add(notebook: Notebook) -> Registration {
    Operation::mutation("notes/add", "Adds a note to a book.")
        .requires("notes:write")
        .resource("topic", "write", "/book")
        .error(ErrorSpec::new(
            "BOOK_FULL",
            "The book has as many notes as it may.",
        ))
        .example(
            json!({ "book": "home/kitchen", "text": "buy milk" }),
            json!({ "number": 1, "text": "buy milk" }),
        )
        .input_bytes_max(8 * 1024)
        .in_flight_max(4)
        .timeout(Duration::from_secs(5))
        .handler(move |_cx, input: NewNote| {
            let added = notebook.add(&input.book, &input.text);
            async move { added }
        })
}

/// A subscription: items, as long as somebody reads them.
fn follow(notebook: Notebook) -> Registration {
    Operation::subscription(
        "notes/follow",
        "Sends the notes of a book, and new ones as they come.",
    )
    .requires("notes:read")
    .resource("topic", "read", "/book")
    .resumable("number", "after")
    .stream(move |_cx, input: Follow| {
        let notes = notebook.follow(input.book, input.after);
        async move { Ok(notes) }
    })
}

/// A channel: bytes come in, and a result goes back at the end.
fn load(notebook: Notebook) -> Registration {
    Operation::channel("notes/load", "Adds each line of the bytes as a note.")
        .requires("notes:write")
        .resource("topic", "write", "/book")
        .error(ErrorSpec::new(
            "BOOK_FULL",
            "The book has as many notes as it may.",
        ))
        .channel::<Book, Book, _, _, _>(move |cx: Context, input: Book, opening: ChannelOpening| {
            let notebook = notebook.clone();
            async move {
                let channel = opening.accept(&input)?;
                let mut lines = BufReader::new(channel.rx);
                let mut notes = 0;
                loop {
                    let mut line = String::new();
                    let mut limited = (&mut lines).take(NOTE_BYTES_MAX);
                    // An end is 0 bytes; a stream that was cut is an error.
                    let read = limited.read_line(&mut line).await;
                    match read.map_err(|error| CallError::invalid_field("", error.to_string()))? {
                        0 => return Ok(Count { notes }),
                        _ if limited.limit() == 0 => return Err(too_long()),
                        _ => notebook.add(&input.book, line.trim_end())?,
                    };
                    notes += 1;
                    cx.progress(&Count { notes }).await;
                }
            }
        })
}

fn too_long() -> CallError {
    let message = format!("a note has less than {NOTE_BYTES_MAX} bytes");
    CallError::new(ErrorCode::TooLarge, message)
}

/// Asks whoever calls before it does what cannot be undone.
fn clear(notebook: Notebook) -> Registration {
    Operation::mutation("notes/clear", "Removes all notes of a book, after asking.")
        .requires("notes:write")
        .resource("topic", "write", "/book")
        .destructive()
        .handler(move |cx: Context, input: Book| {
            let notebook = notebook.clone();
            async move {
                let notes = notebook.list(&input.book).len();
                let question = format!("remove {notes} notes of `{}`? (yes or no)", input.book);
                let answer = cx.ask(&json!({ "question": question })).await?;
                let notes = match answer == "yes" {
                    true => notebook.clear(&input.book),
                    false => 0,
                };
                Ok(Count { notes })
            }
        })
}

/// Calls another operation, with rights of its own: who may call this one
/// learns how many notes there are, and needs no right to read them.
fn count() -> Registration {
    Operation::query("notes/count", "Counts the notes of a book.")
        .authenticated()
        .authority("notes-count", &["notes:read"], &["topic:*=read"])
        .reaches("notes/list")
        .handler(|cx: Context, input: Book| async move {
            let notes: Vec<Note> = cx.env().call("notes/list", &input).await?;
            Ok(Count { notes: notes.len() })
        })
}

/// All of them.
pub fn operations(notebook: &Notebook) -> Vec<Registration> {
    let shared = || notebook.clone();
    vec![
        list(shared()),
        add(shared()),
        follow(shared()),
        load(shared()),
        clear(shared()),
        count(),
    ]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "./data".into());
    let node = Node::builder()
        .data_dir(dir)
        .operations(operations(&Notebook::default()))
        .spawn()
        .await?;
    let note = NewNote {
        book: "home/garden".into(),
        text: "water the roses".into(),
    };
    let added: Note = node.client().call("notes/add", &note).await?;
    println!("added: {} {}", added.number, added.text);
    let book = Book {
        book: "home/garden".into(),
    };
    let count: Count = node.client().call("notes/count", &book).await?;
    println!("notes: {}", count.notes);
    node.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
