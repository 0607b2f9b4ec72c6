//! Makes new inputs of old ones.

use crate::rng::Rng;

/// Where parsers tend to break.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    16,
    31,
    32,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];
/// Letters with a meaning in one of the grammars.
const LETTERS: &[u8] = b"/.:*-_@=,[]{}()\"'\\!#%&+~|;<> \t\n\r\0azAZ09\x7f\x80\xff";
/// Steps that one mutation has at most.
const STEPS_MAX: usize = 6;

/// Writes a mutation of `base` into `out`; `other` lends parts.
pub(crate) fn mutate(
    rng: &mut Rng,
    base: &[u8],
    other: &[u8],
    tokens: &[&[u8]],
    bytes_max: usize,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(base);
    let mut steps = 1;
    while steps < STEPS_MAX && rng.one_in(2) {
        steps += 1;
    }
    for _ in 0..steps {
        step(rng, other, tokens, out);
    }
    out.truncate(bytes_max);
}

fn step(rng: &mut Rng, other: &[u8], tokens: &[&[u8]], out: &mut Vec<u8>) {
    if out.is_empty() {
        let count = 1 + rng.below(32);
        out.extend((0..count).map(|_| rng.byte()));
        return;
    }
    let at = rng.below(out.len());
    match rng.below(16) {
        0 | 1 => out[at] ^= 1 << rng.below(8),
        2 => out[at] = rng.byte(),
        3 => out[at] = LETTERS[rng.below(LETTERS.len())],
        4 => {
            let by = 1 + rng.below(16);
            let by = u8::try_from(by).unwrap_or(1);
            out[at] = match rng.one_in(2) {
                true => out[at].wrapping_add(by),
                false => out[at].wrapping_sub(by),
            };
        }
        5 => number(rng, at, out),
        6 => length(rng, at, out),
        7 => {
            // As often before the first byte as after the last one.
            let at = rng.below(out.len() + 1);
            let letter = LETTERS[rng.below(LETTERS.len())];
            out.insert(at, letter);
        }
        8 => {
            let count = 1 + rng.below(8);
            let fresh: Vec<u8> = (0..count).map(|_| rng.byte()).collect();
            out.splice(at..at, fresh);
        }
        9 | 10 => token(rng, at, tokens, out),
        11 => {
            let count = 1 + rng.below((out.len() - at).min(64));
            out.drain(at..at + count);
        }
        12 => {
            let count = 1 + rng.below((out.len() - at).min(64));
            let part = out[at..at + count].to_vec();
            let times = if rng.one_in(8) { 1 + rng.below(64) } else { 1 };
            let to = rng.below(out.len() + 1);
            out.splice(to..to, part.repeat(times));
        }
        13 => {
            let count = 1 + rng.below(out.len() - at);
            let part = out[at..at + count].to_vec();
            let to = rng.below(out.len() - count + 1);
            out[to..to + count].copy_from_slice(&part);
        }
        14 if !other.is_empty() => {
            let from = rng.below(other.len());
            let count = 1 + rng.below(other.len() - from);
            if rng.one_in(2) {
                out.truncate(at);
                out.extend_from_slice(&other[from..]);
            } else {
                out.splice(at..at, other[from..from + count].iter().copied());
            }
        }
        _ => out.truncate(at),
    }
}

/// Writes an interesting number of some width and order over what is there.
fn number(rng: &mut Rng, at: usize, out: &mut [u8]) {
    let value = NUMBERS[rng.below(NUMBERS.len())];
    let width = 1 << rng.below(4);
    let wide = value.to_be_bytes();
    let mut bytes = wide[8 - width..].to_vec();
    if rng.one_in(3) {
        bytes.reverse();
    }
    let room = width.min(out.len() - at);
    out[at..at + room].copy_from_slice(&bytes[..room]);
}

/// Makes a length of some bytes: of all that follow them, give or take one.
fn length(rng: &mut Rng, at: usize, out: &mut [u8]) {
    let width = 1 << rng.below(3);
    if out.len() - at < width {
        return;
    }
    let follows = out.len() - at - width;
    let value = (follows + rng.below(3)).saturating_sub(1) as u64;
    out[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
}

fn token(rng: &mut Rng, at: usize, tokens: &[&[u8]], out: &mut Vec<u8>) {
    let Some(token) = rng.pick(tokens) else {
        return;
    };
    if rng.one_in(2) {
        out.splice(at..at, token.iter().copied());
    } else {
        let end = (at + token.len()).min(out.len());
        out.splice(at..end, token.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_keep_to_the_limit_and_repeat_with_their_seed() {
        let run = |seed| {
            let mut rng = Rng::new(seed);
            let (mut base, mut out, mut all) = (b"hello world".to_vec(), Vec::new(), Vec::new());
            for _ in 0..5_000 {
                mutate(&mut rng, &base, b"other text", &[b"token"], 64, &mut out);
                assert!(out.len() <= 64);
                all.push(out.clone());
                base.clone_from(&out);
            }
            all
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_length_field_and_a_token_are_found_soon() {
        let mut rng = Rng::new(3);
        let (mut out, mut lengths, mut tokens) = (Vec::new(), 0, 0);
        for _ in 0..20_000 {
            mutate(&mut rng, b"\0\0abcdef", b"", &[b"=read"], 64, &mut out);
            lengths += usize::from(out.len() > 2 && usize::from(out[1]) == out.len() - 2);
            tokens += usize::from(out.windows(5).any(|part| part == b"=read"));
        }
        assert!(lengths > 20 && tokens > 500, "{lengths} {tokens}");
    }
}
