//! Durations as people write them: `30s`, `15m`, `7d`, `1h30m`.

use std::time::Duration;

/// Units with their milliseconds, longest first; `ms` before `m` when parsing
/// is decided by reading letters until the next digit.
const UNITS: &[(&str, &str, u64)] = &[
    ("w", "week", 7 * 24 * 3_600_000),
    ("d", "day", 24 * 3_600_000),
    ("h", "hour", 3_600_000),
    ("m", "minute", 60_000),
    ("s", "second", 1_000),
    ("ms", "millisecond", 1),
];

/// Longest accepted duration: 100 years, so that adding it to any time of this
/// century cannot overflow.
const MILLIS_MAX: u64 = 100 * 366 * 24 * 3_600_000;

/// Parses one or more `<digits><unit>`; units are `w d h m s ms`.
///
/// # Errors
///
/// A sentence that says what is expected. A bare number is refused, since
/// nobody agrees on its unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wanted = || "want a number and a unit (ms, s, m, h, d, w), such as `15m`".to_owned();
    if text.is_empty() {
        return Err(wanted());
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, next) = tail.split_at(letters);
        let millis = UNITS.iter().find(|(short, ..)| *short == unit);
        let (Ok(number), Some((.., millis))) = (number.parse::<u64>(), millis) else {
            return Err(wanted());
        };
        total = number
            .checked_mul(*millis)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MILLIS_MAX)
            .ok_or_else(|| "longer than 100 years".to_owned())?;
        rest = next;
    }
    Ok(Duration::from_millis(total))
}

/// Milliseconds, as operations take them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For a sentence: the two largest units that are not zero, `1 hour 30 minutes`.
pub(crate) fn in_words(duration: Duration) -> String {
    let mut rest = millis(duration);
    let mut words = Vec::new();
    for (_, name, size) in UNITS {
        let count = rest / size;
        if count > 0 && words.len() < 2 {
            let plural = if count == 1 { "" } else { "s" };
            words.push(format!("{count} {name}{plural}"));
            rest %= size;
        }
    }
    if words.is_empty() {
        return "no time".into();
    }
    words.join(" ")
}

/// For a table: the largest unit, `3d`.
pub(crate) fn short(duration: Duration) -> String {
    let whole = millis(duration);
    UNITS.iter().find(|(.., size)| whole >= *size).map_or_else(
        || "0s".into(),
        |(unit, _, size)| format!("{}{unit}", whole / size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, want: Option<u64>) {
        assert_eq!(parse(text).ok().map(millis), want, "{text:?}");
    }

    #[test]
    fn numbers_need_units() {
        check("30s", Some(30_000));
        check("500ms", Some(500));
        check("15m", Some(900_000));
        check("1h30m", Some(5_400_000));
        check("7d", Some(604_800_000));
        check("2w", Some(1_209_600_000));
        check("0s", Some(0));
        for bad in [
            "", "5", "s", "5x", "-1s", "1.5h", "1 h", "5S", "1h 30m", "h1", "5mm", "٣s",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_century_is_the_most() {
        check("36600d", Some(MILLIS_MAX));
        check("36600d1ms", None);
        check("99999999999999999999s", None);
        check("18446744073709551615w", None);
    }

    #[test]
    fn words_name_two_units_at_most() {
        assert_eq!(in_words(Duration::from_secs(900)), "15 minutes");
        assert_eq!(
            in_words(Duration::from_secs(86_400 * 8 + 61)),
            "1 week 1 day"
        );
        assert_eq!(in_words(Duration::from_secs(5400)), "1 hour 30 minutes");
        assert_eq!(in_words(Duration::ZERO), "no time");
        assert_eq!(short(Duration::from_secs(3 * 86_400 + 5)), "3d");
        assert_eq!(short(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,24}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_reads_back(hours in 0u64..10_000, minutes in 0u64..60) {
            let text = format!("{hours}h{minutes}m");
            prop_assert_eq!(parse(&text).map(millis), Ok((hours * 60 + minutes) * 60_000));
        }
    }
}
