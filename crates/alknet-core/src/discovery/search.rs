//! `services/search`: finds operations by words, through an index that is
//! made once for each overlay.

use super::{SearchInput, caller_now, catalogue::describe};
use crate::{
    call::Output,
    context::Context,
    error::CallError,
    name::{OperationName, PeerId},
    registry::Entry,
    spec::OperationSpec,
};
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

/// Results that are returned.
const RESULTS_DEFAULT: u32 = 20;
/// Most results that are returned.
const RESULTS_MAX: u32 = 200;
/// Words of a query that are looked for.
const QUERY_WORDS_MAX: usize = 16;
/// Words of a description that are found; the rest is prose.
const DESCRIPTION_WORDS_MAX: usize = 200;
/// What a word counts that only begins as the one looked for, or the other
/// way round.
const PREFIX_FIT: f32 = 0.6;
/// Shortest word of an operation that a longer one looked for may begin with.
const STEM_BYTES_MIN: usize = 4;

/// Ranks by words: in the name, in the summary, in the rest.
pub(super) fn search(cx: &Context, input: &SearchInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let words: Vec<String> = words(&input.query).take(QUERY_WORDS_MAX).collect();
    if words.is_empty() {
        return Err(CallError::invalid_field("/query", "no word to look for"));
    }
    let sources: Vec<Option<&str>> = match &input.peer {
        Some(peer) => vec![Some(peer.as_str())],
        None => std::iter::once(None)
            .chain(view.peers().map(|peer| Some(peer.as_str())))
            .collect(),
    };
    let mut found: Vec<Hits<'_>> = sources
        .into_iter()
        .filter_map(|peer| Some(view.words(peer)?.find(&words)))
        .collect();
    let most = input.limit.unwrap_or(RESULTS_DEFAULT).clamp(1, RESULTS_MAX) as usize;
    let ranked = std::iter::from_fn(|| next_best(&mut found));
    let results: Result<Vec<Value>, CallError> = ranked
        .filter(|hit| input.kind.is_none_or(|kind| hit.entry.spec().kind == kind))
        // The gate is asked last: most hits are never looked at.
        .filter(|hit| door.may_see(&caller, hit.entry))
        .take(most)
        .map(|hit| {
            let mut value = Output::of(&describe(hit.entry, false))?.into_value()?;
            value["score"] = json!((f64::from(hit.score.value()) * 100.0).round() / 100.0);
            Ok(value)
        })
        .collect();
    Ok(json!({ "results": results? }))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Finds the entries of one overlay by the words in them.
#[derive(Debug)]
pub(crate) struct WordIndex {
    entries: Vec<Arc<Entry>>,
    /// Sorted, so that a prefix is a range.
    words: Vec<(Box<str>, Vec<Posting>)>,
}

/// A word occurs in an entry, where it counts most with this weight.
#[derive(Clone, Copy, Debug)]
struct Posting {
    entry: u32,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Description,
    Parameter,
    Summary,
    Name,
}

impl Weight {
    fn value(self) -> f32 {
        match self {
            Weight::Description => 1.0,
            Weight::Parameter => 1.5,
            Weight::Summary => 2.0,
            Weight::Name => 4.0,
        }
    }
}

/// What a hit counts: the bits of a positive number, which order as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score(u32);

impl Score {
    fn of(value: f32) -> Option<Self> {
        (value > 0.0).then(|| Self(value.to_bits()))
    }

    fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// What was found in one overlay, best first; equals by number, which is the
/// order of names there. Most of it is never looked at, so nothing is sorted.
struct Hits<'i> {
    index: &'i WordIndex,
    heap: BinaryHeap<(Score, Reverse<u32>)>,
}

struct Hit<'i> {
    score: Score,
    entry: &'i Arc<Entry>,
}

impl<'i> Hits<'i> {
    fn best(&self) -> Option<Hit<'i>> {
        let (score, Reverse(at)) = *self.heap.peek()?;
        let entry = self.index.entries.get(at as usize)?;
        Some(Hit { score, entry })
    }
}

impl Hit<'_> {
    /// The least is the best.
    fn rank(&self) -> (Reverse<Score>, &OperationName, Option<&PeerId>) {
        let name = &self.entry.spec().name;
        (Reverse(self.score), name, self.entry.peer())
    }
}

fn next_best<'i>(found: &mut [Hits<'i>]) -> Option<Hit<'i>> {
    let ranked = found
        .iter()
        .enumerate()
        .filter_map(|(at, hits)| Some((at, hits.best()?)));
    let (at, hit) = ranked.min_by(|(_, a), (_, b)| a.rank().cmp(&b.rank()))?;
    found[at].heap.pop();
    Some(hit)
}

impl WordIndex {
    pub(crate) fn new<'e>(entries: impl Iterator<Item = &'e Arc<Entry>>) -> Self {
        let entries: Vec<Arc<Entry>> = entries.cloned().collect();
        let mut words: BTreeMap<Box<str>, Vec<Posting>> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            for (word, weight) in weighted_words(entry.spec()) {
                let posting = Posting { entry: at, weight };
                words.entry(word.into()).or_default().push(posting);
            }
        }
        let words = words
            .into_iter()
            .map(|(word, mut postings)| {
                postings.shrink_to_fit();
                (word, postings)
            })
            .collect();
        Self { entries, words }
    }

    /// Every entry that has one of the words, with what they count together.
    fn find(&self, wanted: &[String]) -> Hits<'_> {
        let mut total = vec![0.0; self.entries.len()];
        let mut best = total.clone();
        for word in wanted {
            best.fill(0.0);
            self.fits(word, |postings, fit| {
                for posting in postings {
                    let held: &mut f32 = &mut best[posting.entry as usize];
                    *held = held.max(posting.weight.value() * fit);
                }
            });
            total
                .iter_mut()
                .zip(&best)
                .for_each(|(total, best)| *total += best);
        }
        let scored = (0u32..).zip(total);
        let heap = scored
            .filter_map(|(at, score)| Some((Score::of(score)?, Reverse(at))))
            .collect();
        Hits { index: self, heap }
    }

    /// Words that are `wanted`, begin with it, or are a stem of it.
    fn fits(&self, wanted: &str, mut take: impl FnMut(&[Posting], f32)) {
        let from = self.words.partition_point(|(word, _)| **word < *wanted);
        for (word, postings) in &self.words[from..] {
            if !word.starts_with(wanted) {
                break;
            }
            let fit = if **word == *wanted { 1.0 } else { PREFIX_FIT };
            take(postings, fit);
        }
        for end in STEM_BYTES_MIN..wanted.len() {
            let Some(stem) = wanted.get(..end) else {
                continue;
            };
            if let Ok(at) = self.words.binary_search_by(|(word, _)| (**word).cmp(stem)) {
                take(&self.words[at].1, PREFIX_FIT);
            }
        }
    }
}

/// Each word of an operation once, where it counts most.
fn weighted_words(spec: &OperationSpec) -> BTreeMap<String, Weight> {
    let properties = spec.input.value().get("properties");
    let parameters = properties.and_then(Value::as_object).into_iter().flatten();
    let description = spec.description.as_deref().unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut add = |word: String, weight: Weight| {
        let held = found.entry(word).or_insert(weight);
        *held = weight.max(*held);
    };
    words(spec.name.as_str()).for_each(|word| add(word, Weight::Name));
    words(&spec.summary).for_each(|word| add(word, Weight::Summary));
    for (key, _) in parameters {
        words(key).for_each(|word| add(word, Weight::Parameter));
    }
    let prose = words(description).take(DESCRIPTION_WORDS_MAX);
    prose.for_each(|word| add(word, Weight::Description));
    found
}
