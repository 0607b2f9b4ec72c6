//! Times: RFC 3339 on the wire, relative for people.

use crate::duration;
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Parses RFC 3339, or a duration that is meant as "ago".
///
/// # Errors
///
/// A sentence that says what is expected.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    parse_at(text, OffsetDateTime::now_utc())
}

fn parse_at(text: &str, now: OffsetDateTime) -> Result<String, String> {
    if OffsetDateTime::parse(text, &Rfc3339).is_ok() {
        return Ok(text.to_owned());
    }
    let ago = duration::parse(text)
        .map_err(|_| "want a time such as `2026-01-31T12:00:00Z`, or how long ago, `1h`")?;
    let at = time::Duration::try_from(ago)
        .ok()
        .and_then(|ago| now.checked_sub(ago));
    at.and_then(|at| at.format(&Rfc3339).ok())
        .ok_or_else(|| "too long ago".to_owned())
}

/// `3m ago`, `in 2h`, or the text itself if it is no time.
pub(crate) fn relative(text: &str) -> String {
    relative_at(text, OffsetDateTime::now_utc())
}

fn relative_at(text: &str, now: OffsetDateTime) -> String {
    let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) else {
        return text.to_owned();
    };
    let gap = now - at;
    let length = duration::short(Duration::from_secs(gap.whole_seconds().unsigned_abs()));
    match gap.whole_seconds() {
        0 => "now".into(),
        1.. => format!("{length} ago"),
        _ => format!("in {length}"),
    }
}

/// Cut to milliseconds, so that columns line up.
pub(crate) fn stamp(text: &str) -> String {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok();
    // The last hours of the last year may be none in this zone.
    match at.and_then(|at| at.checked_to_offset(time::UtcOffset::UTC)) {
        Some(at) => {
            let (date, time) = (at.date(), at.time());
            let (hour, minute, second, milli) = time.as_hms_milli();
            format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn noon() -> OffsetDateTime {
        OffsetDateTime::parse("2026-01-31T12:00:00Z", &Rfc3339).unwrap()
    }

    #[test]
    fn a_duration_means_ago() {
        assert_eq!(parse_at("1h", noon()).unwrap(), "2026-01-31T11:00:00Z");
        assert_eq!(
            parse_at("2026-01-31T12:00:00+01:00", noon()).unwrap(),
            "2026-01-31T12:00:00+01:00"
        );
        assert!(parse_at("yesterday", noon()).is_err());
        assert!(parse_at("36600d", noon()).is_ok());
    }

    #[test]
    fn people_read_distances() {
        let check = |text: &str, want: &str| assert_eq!(relative_at(text, noon()), want);
        check("2026-01-31T11:57:00Z", "3m ago");
        check("2026-01-31T14:00:00.5Z", "in 2h");
        check("2026-01-31T12:00:00Z", "now");
        check("soon", "soon");
    }

    #[test]
    fn stamps_have_one_width() {
        assert_eq!(stamp("2026-01-31T12:00:00Z"), "2026-01-31T12:00:00.000Z");
        assert_eq!(
            stamp("2026-01-31T13:00:00.123456+01:00"),
            "2026-01-31T12:00:00.123Z"
        );
        // Beyond the last year that has a name: a node may send anything.
        let last = "9999-12-31T23:59:59-23:59";
        assert_eq!(stamp(last), last);
    }
}
