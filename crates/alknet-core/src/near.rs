//! Names near to a misspelt one, and what is said of a text that is none.

use std::borrow::Cow;

/// Longest text that is repeated as a name, in bytes; peers have no longer ones.
const NAME_BYTES_MAX: usize = 32;
/// Characters of what is no name that are repeated: too few to be of use to
/// whoever finds them.
const CHARS_MAX: usize = 8;

/// What an error repeats of a text that should have been a name: all of it if
/// it is as short as one, else its beginning. Somebody may have mixed up a name
/// and a secret, such as a token, a ticket or the words of a vault.
#[must_use]
pub fn brief(text: &str) -> Cow<'_, str> {
    if text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let most = match text.len() {
        0..=NAME_BYTES_MAX => NAME_BYTES_MAX,
        _ => CHARS_MAX,
    };
    let shown = text.chars().filter(|c| !c.is_control()).take(most);
    Cow::Owned(shown.chain(['…']).collect())
}

/// Edit distance with transpositions (optimal string alignment): insertions,
/// deletions, substitutions and swaps of neighbours, counted in bytes.
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// Of `known`, the names near enough to `wanted` to be what was meant, nearest
/// first, at most three.
#[must_use]
pub fn nearest<'n>(wanted: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let most = (wanted.len() / 3).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (edit_distance(name, wanted), name))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_too_long_for_a_name_little_is_repeated() {
        let longest = "n".repeat(32);
        for name in ["laptop", "", "my laptop", "ä", &longest] {
            assert_eq!(brief(name), name);
        }
        assert_eq!(brief(&format!("{longest}n")), "nnnnnnnn…");
        assert_eq!(brief(&"é".repeat(17)), "éééééééé…");
        assert_eq!(brief("lap\u{1b}top"), "laptop…");
    }

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!(edit_distance("fs/raed", "fs/read"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("node/info", "node/inf"), 1);
    }

    #[test]
    fn only_near_names_are_meant() {
        assert_eq!(nearest("labtop", ["laptop", "nas", "desktop"]), ["laptop"]);
        assert!(nearest("x", ["laptop"]).is_empty());
    }
}
