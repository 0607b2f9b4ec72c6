//! Grammars and matchers written a second time, slowly and without looking at
//! the first: what decides in the product is compared with these.

use std::net::{IpAddr, Ipv4Addr};

/// `[a-z][a-z0-9]*(-[a-z0-9]+)*`, letter by letter.
pub(super) fn is_segment(text: &str) -> bool {
    #[derive(PartialEq)]
    enum Last {
        Nothing,
        Letter,
        Hyphen,
    }
    let mut last = Last::Nothing;
    for c in text.chars() {
        last = match (last, c) {
            (Last::Nothing, 'a'..='z') => Last::Letter,
            (Last::Nothing, _) => return false,
            (_, 'a'..='z' | '0'..='9') => Last::Letter,
            (Last::Letter, '-') => Last::Hyphen,
            _ => return false,
        };
    }
    last == Last::Letter
}

/// The parts of a text between separators, each found by hand.
pub(super) fn parts(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in text.chars() {
        if c == separator {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

pub(super) fn is_operation_name(text: &str) -> bool {
    let parts = parts(text, '/');
    text.len() <= 64 && (2..=4).contains(&parts.len()) && parts.iter().all(|part| is_segment(part))
}

pub(super) fn is_slug(text: &str) -> bool {
    text.len() <= 32 && is_segment(text)
}

/// A scope; one that ends in `*` may only be held.
pub(super) fn is_scope(text: &str) -> bool {
    let mut parts = parts(text, ':');
    let last = parts.pop().unwrap_or_default();
    text.len() <= 128
        && parts.iter().all(|part| is_segment(part))
        && (is_segment(&last) || last == "*")
}

/// Whether a held scope satisfies a required one.
pub(super) fn scope_covers(held: &str, required: &str) -> bool {
    let (held, required) = (parts(held, ':'), parts(required, ':'));
    match held.split_last() {
        Some((star, before)) if star == "*" => {
            required.len() > before.len() && required.starts_with(before)
        }
        _ => held == required,
    }
}

/// Whether a pattern over operations covers a name: the last part may be a
/// star, which stands for one or more parts.
pub(super) fn operation_covers(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (parts(pattern, '/'), parts(name, '/'));
    match pattern.split_last() {
        Some((star, before)) if star == "*" || star == "**" => {
            name.len() > before.len() && name.starts_with(before)
        }
        _ => pattern == name,
    }
}

/// Whether a pattern of segments covers a path: `*` stands for letters of one
/// segment, `**` at the end for all that follows.
pub(super) fn path_covers(pattern: &str, path: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    let mut pattern = parts(pattern, '/');
    // A slash at the end says nothing.
    if pattern.last().is_some_and(String::is_empty) {
        pattern.pop();
    }
    let path = parts(path, '/');
    let open = pattern.last().is_some_and(|last| last == "**");
    if open {
        pattern.pop();
    }
    let fits = if open {
        path.len() >= pattern.len()
    } else {
        path.len() == pattern.len()
    };
    fits && pattern
        .iter()
        .zip(&path)
        .all(|(pattern, name)| stars_cover(pattern, name))
}

/// `%XX` read byte by byte.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut value = 0;
        for _ in 0..2 {
            let digit = match rest.next()? {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                digit @ b'A'..=b'F' => digit - b'A' + 10,
                _ => return None,
            };
            value = value * 16 + digit;
        }
        bytes.push(value);
    }
    Some(bytes)
}

/// Bytes as text: letters of UTF-8 as they are, but for `%`; all else `%XX`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    while at < bytes.len() {
        let lengths = 1..=4.min(bytes.len() - at);
        let letter = lengths
            .filter_map(|len| std::str::from_utf8(&bytes[at..at + len]).ok())
            .next();
        match letter {
            Some(letter) if letter != "%" => {
                text.push_str(letter);
                at += letter.len();
            }
            _ => {
                text.push_str(&format!("%{:02X}", bytes[at]));
                at += 1;
            }
        }
    }
    text
}

/// A bucket with its version, and names as bytes: `bucket[@branch]/names`.
pub(super) fn file_path(text: &str) -> Option<(String, Vec<Vec<u8>>)> {
    let mut all = parts(text, '/');
    let root = all.remove(0);
    let is_word = |text: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&text.len()) && text.chars().all(fine)
    };
    let versions = parts(&root, '@');
    let fine = match &versions[..] {
        [bucket] => is_word(bucket),
        [bucket, branch] => is_word(bucket) && is_word(branch),
        [bucket, nothing, _, ..] => {
            let moment = versions[2..].join("@");
            let is_plain = !moment.contains('%') && !moment.contains('\0');
            is_word(bucket) && nothing.is_empty() && !moment.is_empty() && is_plain
        }
        [] => false,
    };
    let mut names = Vec::new();
    for part in all.iter().filter(|part| !part.is_empty()) {
        let name = unescaped(part)?;
        let is_name = (1..=255).contains(&name.len())
            && !matches!(&name[..], b"." | b"..")
            && !name.contains(&b'/')
            && !name.contains(&0);
        if !is_name {
            return None;
        }
        names.push(name);
    }
    let bytes: usize = names.iter().map(Vec::len).sum();
    let slashes = names.len().saturating_sub(1);
    (fine && bytes + slashes <= 4095).then_some((root, names))
}

/// Whether a pattern of `bucket:` covers a file: as [`path_covers`], with names
/// compared as bytes, and a star only where one is written as such.
pub(super) fn file_covers(pattern: &str, path: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    let mut pattern = parts(pattern, '/');
    if pattern.last().is_some_and(String::is_empty) {
        pattern.pop();
    }
    let path = parts(path, '/');
    let is_open = pattern.last().is_some_and(|last| last == "**");
    if is_open {
        pattern.pop();
    }
    let fits = match is_open {
        true => path.len() >= pattern.len(),
        false => path.len() == pattern.len(),
    };
    fits && pattern.iter().zip(&path).all(|(pattern, name)| {
        let pieces = parts(pattern, '*');
        let pieces: Option<Vec<Vec<u8>>> = pieces.iter().map(|piece| unescaped(piece)).collect();
        match (pieces, unescaped(name)) {
            (Some(pieces), Some(name)) => pieces_cover(&pieces, &name),
            _ => false,
        }
    })
}

/// Whether a text is these pieces with anything between them: after each piece,
/// every place where it may have ended.
fn pieces_cover(pieces: &[Vec<u8>], text: &[u8]) -> bool {
    let mut ends: Vec<usize> = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let may_begin = |at: &usize| match n {
            0 => *at == 0,
            _ => ends.iter().any(|end| end <= at),
        };
        let begins = (0..=text.len()).filter(may_begin);
        let fits = begins.filter(|at| text[*at..].starts_with(piece));
        ends = fits.map(|at| at + piece.len()).collect();
    }
    ends.contains(&text.len())
}

/// A name that each part of a pattern of `bucket:` covers, in the one form;
/// nothing from `**` on.
pub(super) fn names_of(pattern: &str) -> Vec<String> {
    let parts = parts(pattern, '/').into_iter();
    let named = parts.take_while(|part| part != "**" && !part.is_empty());
    named
        .filter_map(|part| unescaped(&part.replace('*', "x")))
        .map(|name| escaped(&name))
        .collect()
}

/// Whether text is covered where each `*` stands for any letters: a table of
/// which beginnings cover which.
fn stars_cover(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let mut row: Vec<bool> = (0..=text.len()).map(|at| at == 0).collect();
    for letter in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match letter {
                b'*' => row[at] || (at > 0 && next[at - 1]),
                _ => at > 0 && row[at - 1] && text[at - 1] == *letter,
            };
        }
        row = next;
    }
    row[text.len()]
}

/// The bits of an address, the first one first; an IPv4 address in IPv6 form
/// has those of the IPv4 address.
fn bits(ip: IpAddr) -> Vec<bool> {
    let octets: Vec<u8> = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => match ip.octets() {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
                Ipv4Addr::new(a, b, c, d).octets().to_vec()
            }
            octets => octets.to_vec(),
        },
    };
    octets
        .iter()
        .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
        .collect()
}

/// The IPv4 address that an IPv6 one stands for, by its octets: mapped, NAT64,
/// 6to4, compatible.
pub(super) fn stands_for(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else {
        return ip;
    };
    let o = v6.octets();
    let last = [o[12], o[13], o[14], o[15]];
    let starts = |prefix: &[u8]| o.starts_with(prefix);
    let is_small = starts(&[0; 12]) && last[..3] == [0; 3] && last[3] < 2;
    if starts(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
        || starts(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0])
        || (starts(&[0; 12]) && !is_small)
    {
        return IpAddr::from(last);
    }
    if starts(&[0x20, 0x02]) {
        return IpAddr::from([o[2], o[3], o[4], o[5]]);
    }
    ip
}

/// Whether the first `length` bits of two addresses of one family are equal.
/// A range written in the IPv6 form of IPv4 is one of IPv4.
pub(super) fn in_range(range: IpAddr, length: usize, ip: IpAddr) -> bool {
    let (of_range, of_ip) = (bits(range), bits(ip));
    let length = match (range, of_range.len()) {
        (IpAddr::V6(_), 32) if length >= 96 => length - 96,
        // Wider than the IPv4 addresses in it: a range of IPv6 alone.
        (IpAddr::V6(range), 32) => {
            let range = range.octets();
            return of_ip.len() == 128 && same_bits(&range, ip, length);
        }
        _ => length,
    };
    of_range.len() == of_ip.len()
        && of_range
            .iter()
            .zip(&of_ip)
            .take(length)
            .all(|(a, b)| a == b)
}

fn same_bits(range: &[u8; 16], ip: IpAddr, length: usize) -> bool {
    let IpAddr::V6(ip) = ip else {
        return false;
    };
    let bit = |octets: &[u8; 16], at: usize| octets[at / 8] >> (7 - at % 8) & 1;
    (0..length).all(|at| bit(range, at) == bit(&ip.octets(), at))
}

/// Nesting of JSON text that is known to be JSON.
pub(super) fn depth(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}
