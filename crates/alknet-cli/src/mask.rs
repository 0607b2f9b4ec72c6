//! Keeps secrets that were given in the place of a name out of what is said
//! about that.

use std::borrow::Cow;

/// What API keys and tickets begin with, and how much of one may be shown: of a
/// key its id, of a ticket nothing that was not known.
const SECRETS: [(&str, usize); 2] = [("alk_", 12), ("alkinvite1", 10)];
/// A shorter one is none.
const CHARS_MIN: usize = 20;

/// The text with every API key and ticket in it cut.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out: Option<String> = None;
    // How much of the text is in `out`.
    let mut done = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let word = &rest[..len];
        let secret = SECRETS.iter().find(|(start, _)| word.starts_with(start));
        if let Some((_, shown)) = secret.filter(|_| len > CHARS_MIN) {
            let out = out.get_or_insert_default();
            out.push_str(&text[done..at + shown]);
            out.push('…');
            done = at + len;
        }
        at += len;
        at += text[at..].chars().next().map_or(0, char::len_utf8);
    }
    match out {
        Some(mut out) => {
            out.push_str(&text[done..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn keys_and_tickets_are_cut_wherever_they_stand() {
        let key = format!("alk_aebagbaf{}", "q".repeat(52));
        let ticket = format!("alkinvite1{}", "a2".repeat(80));
        let text = format!("no peer `{key}`, \u{e9}{ticket} \"{key}\"");
        let want = "no peer `alk_aebagbaf…`, \u{e9}alkinvite1… \"alk_aebagbaf…\"";
        assert_eq!(masked(&text), want);
        for text in [
            "",
            "alk_",
            "no key `alk_agent`",
            "alknet invite",
            "\u{20ac}",
        ] {
            assert_eq!(masked(text), text);
        }
    }
}
