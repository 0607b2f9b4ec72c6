//! The matrix as a page.

use super::{Expect, Outcome, Path, Row};
use std::time::Duration;

/// Where and how the rows were made.
#[derive(Clone, Debug)]
pub struct About {
    /// The day, as `2026-11-20`.
    pub date: String,
    /// The kernel.
    pub kernel: String,
    /// What `alknet version` says.
    pub alknet: String,
    /// How it was built.
    pub build: String,
    /// Processors.
    pub processors: usize,
    /// The command that makes the page again.
    pub command: String,
}

/// What a run of the matrix came to.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Rows that ran to their ends.
    pub rows: Vec<Row>,
    /// The others, with the reason.
    pub not_run: Vec<(&'static str, String)>,
}

impl Results {
    /// Every row ran, and showed what its scenario says.
    #[must_use]
    pub fn are_as_expected(&self) -> bool {
        self.not_run.is_empty() && self.rows.iter().all(|row| row.deviations.is_empty())
    }
}

/// Everything before the tables of a page that has none yet.
const HEAD: &str = "# Links across NATs and changes of networks\n";
/// What is written by a program stands between these lines; the rest of the
/// page is kept.
const BEGIN: &str = "<!-- written by `./lab matrix --write` from here -->";
const END: &str = "<!-- to here -->";

/// The page with these rows, and with the text around the tables of the page
/// that was there before.
#[must_use]
pub fn page(about: &About, results: &Results, before: Option<&str>) -> String {
    let tables = format!("{BEGIN}\n\n{}\n{END}", tables(about, results));
    let before = before.unwrap_or(HEAD);
    match (before.find(BEGIN), before.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{tables}{}", &before[..begin], &before[end + END.len()..])
        }
        _ => format!("{}\n\n{tables}\n", before.trim_end()),
    }
}

fn tables(about: &About, results: &Results) -> String {
    let rows = &results.rows;
    let mut text = format!(
        "Made on {} by `{}`: `alknet` {}, {} build, Linux {}, {} processors.\n\n",
        about.date, about.command, about.alknet, about.build, about.kernel, about.processors
    );
    text.push_str(
        "| scenario | home, laptop | first path | connect | direct after | path | round trip | call |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        text.push_str(&connecting(row));
    }
    text.push_str(
        "\n| scenario | change | longest gap | back after | path then | call then | exec | subscription | bulk | as expected |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        text.push_str(&changing(row));
    }
    let mut deviations: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            let name = row.scenario.name;
            row.deviations
                .iter()
                .map(move |deviation| format!("- `{name}`: {deviation}\n"))
        })
        .collect();
    deviations.extend(
        results
            .not_run
            .iter()
            .map(|(name, why)| format!("- `{name}` could not be run: {why}\n")),
    );
    if !deviations.is_empty() {
        text.push_str("\nNot as expected:\n\n");
        text.push_str(&deviations.concat());
    }
    text
}

fn connecting(row: &Row) -> String {
    let scenario = &row.scenario;
    let direct = match row.direct_after {
        Some(after) => time(after),
        None => "stays on the relay".into(),
    };
    let nats = format!("{}, {}", scenario.home.name(), scenario.laptop.name());
    let cells = [
        scenario.name.to_owned(),
        nats,
        row.first_path.as_str().to_owned(),
        time(row.connect),
        direct,
        row.path.as_str().to_owned(),
        row.rtt_ms.map_or("-".into(), |rtt| format!("{rtt:.1} ms")),
        row.call.map_or("-".into(), fine_time),
    ];
    line(&cells)
}

fn changing(row: &Row) -> String {
    let mut cells = vec![
        row.scenario.name.to_owned(),
        row.scenario.change.to_string(),
        row.gap.map_or("-".into(), time),
        time(row.back),
        row.path_after.map_or("none", Path::as_str).to_owned(),
        row.call_after.map_or("-".into(), fine_time),
    ];
    cells.extend(row.outcomes.iter().map(|(name, outcome)| match outcome {
        Outcome::Survived(amount) if *name == "bulk" => format!("{} MiB", amount >> 20),
        Outcome::Survived(amount) => format!("{amount} lines"),
        Outcome::Lost { after } => format!("`LOST` after {}", time(*after)),
        Outcome::Broken(_) => "**broken**".into(),
    }));
    let expected = match row.scenario.expect {
        Expect::Survive => "survives",
        Expect::SurviveStalled => "survives a stall",
        Expect::EndLost => "`LOST`",
    };
    cells.push(if row.deviations.is_empty() {
        format!("yes: {expected}")
    } else {
        format!("**no**: {expected}, below")
    });
    line(&cells)
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// A time that was looked at every 50 ms.
fn time(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn fine_time(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            date: "2026-11-20".into(),
            kernel: "6.18".into(),
            alknet: "0.1.0".into(),
            build: "debug".into(),
            processors: 2,
            command: "./lab matrix".into(),
        }
    }

    #[test]
    fn a_page_keeps_what_people_wrote_around_the_tables() {
        let first = page(&about(), &Results::default(), None);
        assert!(first.starts_with(HEAD), "{first}");
        let edited = format!("{}\nRead this.\n", first.replace(HEAD, "# Other\n\nWhy.\n"));
        let second = page(
            &About {
                processors: 3,
                ..about()
            },
            &Results::default(),
            Some(&edited),
        );
        assert!(second.starts_with("# Other\n\nWhy.\n"), "{second}");
        assert!(second.ends_with("\nRead this.\n"), "{second}");
        assert!(second.contains("3 processors") && !second.contains("2 processors"));
        assert_eq!(second.matches(BEGIN).count(), 1);
    }
}
