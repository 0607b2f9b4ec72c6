//! How files are shown: names that cannot upset a terminal and can be typed
//! again, modes, sizes and times.

use crate::node_access::{FileKind, FileName, FilePath, FileTime, Route};
use time::OffsetDateTime;

/// Characters that would move the cursor, turn the direction of what follows,
/// or cannot be seen.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The canonical text of a name or a path with such characters as `%XX`, which
/// remote paths take again. One line, whatever is in the name.
pub(crate) fn shown(canonical: &str) -> String {
    escaped(canonical, is_unsafe)
}

/// A name as people see it, which means this one file when it is typed again.
pub(crate) fn shown_name(name: &FileName) -> String {
    escaped(&name.to_string(), is_special)
}

/// What would be a pattern where a place is typed is escaped too.
fn is_special(c: char) -> bool {
    is_unsafe(c) || matches!(c, '*' | '?' | '[')
}

/// `peer:bucket/path` of a file, which names this one file when it is typed
/// again: what would be a pattern is escaped too.
pub(crate) fn place_text(route: &Route, file: &FilePath) -> String {
    let file = escaped(&file.to_string(), is_special);
    format!("{}:{file}", route_text(route))
}

/// A route as it stands before the colon.
pub(crate) fn route_text(route: &Route) -> String {
    let steps: Vec<String> = route.iter().map(ToString::to_string).collect();
    steps.join("/")
}

fn escaped(text: &str, is_special: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut buffer = [0; 4];
    for c in text.chars() {
        if is_special(c) {
            for byte in c.encode_utf8(&mut buffer).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// `drwxr-xr-x`, as `ls -l` of POSIX.1-2024 has it.
pub(crate) fn mode(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        // A pipe, a device or a socket: which one is not told.
        FileKind::Other => '?',
    });
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    for (at, (bit, with_x, without_x)) in special.into_iter().enumerate() {
        let three = mode >> (6 - 3 * at);
        text.push(if three & 4 != 0 { 'r' } else { '-' });
        text.push(if three & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & bit != 0, three & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without_x,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `1.5K`: powers of 1024, rounded up, as `ls -h` of coreutils.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = 0;
    let units = ['K', 'M', 'G', 'T', 'P', 'E'];
    while unit < units.len() {
        tenths = tenths.div_ceil(1024);
        // Rounding up may make it 1024 of this unit, which is one of the next.
        let is_small = tenths <= 99;
        let whole = tenths.div_ceil(10);
        if is_small {
            return format!("{}.{}{}", tenths / 10, tenths % 10, units[unit]);
        }
        if whole < 1024 || unit + 1 == units.len() {
            return format!("{whole}{}", units[unit]);
        }
        unit += 1;
    }
    bytes.to_string()
}

/// `2026-11-20 10:00` in UTC, or the text of a time that has no such form.
pub(crate) fn time(time: FileTime) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(time.seconds) else {
        return time.to_string();
    };
    let (hour, minute, _) = at.time().as_hms();
    format!("{} {hour:02}:{minute:02}", at.date())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node_access::parse_route;

    #[test]
    fn names_are_one_line_that_can_be_typed_again() {
        let check = |bytes: &[u8], want: &str| {
            let name = FileName::new(bytes).unwrap();
            let text = shown_name(&name);
            assert_eq!(text, want);
            assert_eq!(FileName::parse(&text).unwrap(), name);
        };
        check(b"plain.txt", "plain.txt");
        check(b"a b]", "a b]");
        check(b"st*ar?[x]", "st%2Aar%3F%5Bx]");
        check(b"a\nb\x1b[2J", "a%0Ab%1B%5B2J");
        check(b"\xff100%", "%FF100%25");
        check("é\u{202e}txt".as_bytes(), "é%E2%80%AEtxt");
        check("x\u{9b}".as_bytes(), "x%C2%9B");
    }

    #[test]
    fn a_place_names_one_file() {
        let file = FilePath::parse("www/a*b[1]?/c%0Ad").unwrap();
        let route = parse_route("hub/nas").unwrap();
        let want = "hub/nas:www/a%2Ab%5B1]%3F/c%0Ad";
        assert_eq!(place_text(&route, &file), want);
        assert_eq!(place_text(&Route::new(), &file), want[7..]);
    }

    #[test]
    fn modes_are_those_of_ls() {
        let check = |kind, bits, want: &str| assert_eq!(mode(kind, bits), want);
        check(FileKind::File, 0o644, "-rw-r--r--");
        check(FileKind::Directory, 0o1777, "drwxrwxrwt");
        check(FileKind::Symlink, 0o777, "lrwxrwxrwx");
        check(FileKind::File, 0o6711, "-rws--s--x");
        check(FileKind::File, 0o7000, "---S--S--T");
        check(FileKind::Other, 0o020, "?----w----");
    }

    /// Compared with `ls -h` of coreutils 9.
    #[test]
    fn sizes_are_those_of_ls() {
        let check = |bytes, want: &str| assert_eq!(size(bytes), want, "{bytes}");
        check(0, "0");
        check(1023, "1023");
        check(1024, "1.0K");
        check(1025, "1.1K");
        check(10_137, "9.9K");
        check(10_138, "10K");
        check(1_047_553, "1.0M");
        check(1024 * 1024, "1.0M");
        check(1_048_577, "1.1M");
        check(20 << 30, "20G");
        check(u64::MAX, "16E");
    }

    #[test]
    fn times_are_utc_minutes() {
        let at = |seconds| FileTime {
            seconds,
            nanoseconds: 0,
        };
        assert_eq!(time(at(0)), "1970-01-01 00:00");
        assert_eq!(time(at(1_763_632_859)), "2025-11-20 10:00");
        assert_eq!(time(at(i64::MAX)), "@9223372036854775807.000000000");
    }
}
