//! Entries as `ls` prints them.

use super::text::{mode, shown, size, time};
use crate::{
    failure::Failure,
    node_access::{FileKind, FileName, FilePath, FileStat},
    output::Out,
};
use serde::Serialize;

/// Text that is gathered before it is written.
const TEXT_BYTES: usize = 64 * 1024;
/// Spaces between columns of names.
const GAP: usize = 2;

/// How entries are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// One object a line.
    Json,
    /// All that is known, a line each.
    Long,
    /// A name a line.
    Lines,
    /// As many names a line as a terminal has room for.
    Columns,
}

/// An entry to print.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its name as people see it.
    pub(crate) shown: String,
    /// As it can be typed; needed for JSON only.
    pub(crate) place: String,
    pub(crate) file: FilePath,
    pub(crate) stat: FileStat,
    pub(crate) target: Option<String>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    place: &'a str,
    file: &'a FilePath,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a FileName>,
    #[serde(flatten)]
    stat: &'a FileStat,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

/// Prints entries, batch by batch.
#[derive(Debug)]
pub(crate) struct Rows {
    out: Out,
    style: Style,
    is_short: bool,
    width: Option<usize>,
    text: String,
    has_printed: bool,
    /// Of links, owner, group and bytes; they only grow.
    widths: [usize; 4],
}

impl Rows {
    pub(crate) fn new(out: Out, style: Style, is_short: bool) -> Self {
        Self {
            out,
            style,
            is_short,
            width: out.width(),
            text: String::new(),
            has_printed: false,
            widths: [0; 4],
        }
    }

    /// A line above what follows, an empty one before it.
    pub(crate) fn heading(&mut self, text: &str) -> Result<(), Failure> {
        if self.style == Style::Json {
            return Ok(());
        }
        if self.has_printed {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.end_line()?;
        self.widths = [0; 4];
        Ok(())
    }

    /// Prints entries in this order.
    pub(crate) fn print(&mut self, rows: Vec<Row>) -> Result<(), Failure> {
        match self.style {
            Style::Json => rows.iter().try_for_each(|row| self.json(row)),
            Style::Long => self.long(&rows),
            Style::Lines | Style::Columns => {
                self.names(rows.into_iter().map(|row| row.shown).collect())
            }
        }
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let text = std::mem::take(&mut self.text);
        self.out.text(&text)
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        self.text.push('\n');
        self.has_printed = true;
        match self.text.len() < TEXT_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn json(&mut self, row: &Row) -> Result<(), Failure> {
        let line = JsonRow {
            place: &row.place,
            file: &row.file,
            name: row.file.name(),
            stat: &row.stat,
            target: row.target.as_deref(),
        };
        let line = serde_json::to_string(&line)
            .map_err(|error| Failure::local(format!("failed to write JSON: {error}")))?;
        self.text.push_str(&line);
        self.end_line()
    }

    fn long(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let cells = |row: &Row| {
            let stat = &row.stat;
            let bytes = match self.is_short {
                true => size(stat.bytes),
                false => stat.bytes.to_string(),
            };
            [
                stat.links.to_string(),
                stat.uid.to_string(),
                stat.gid.to_string(),
                bytes,
            ]
        };
        let all: Vec<[String; 4]> = rows.iter().map(cells).collect();
        for cells in &all {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.len());
            }
        }
        for (row, cells) in rows.iter().zip(all) {
            self.text.push_str(&mode(row.stat.kind, row.stat.mode));
            for (width, cell) in self.widths.iter().zip(cells) {
                self.text.push_str(&format!(" {cell:>width$}"));
            }
            self.text
                .push_str(&format!(" {} {}", time(row.stat.mtime), row.shown));
            if row.stat.kind == FileKind::Symlink {
                // Where it leads is not told if that is outside of the bucket.
                let target = row.target.as_deref().unwrap_or("?");
                self.text.push_str(&format!(" -> {}", shown(target)));
            }
            self.end_line()?;
        }
        Ok(())
    }

    /// Names alone.
    pub(crate) fn names(&mut self, names: Vec<String>) -> Result<(), Failure> {
        let width = self.width.filter(|_| self.style == Style::Columns);
        let Some(width) = width else {
            for name in names {
                self.text.push_str(&name);
                self.end_line()?;
            }
            return self.flush();
        };
        for line in columns(&names, width) {
            self.text.push_str(&line);
            self.end_line()?;
        }
        self.flush()
    }
}

/// Names in columns, each read downwards, in as few lines as there is room for.
fn columns(names: &[String], width: usize) -> Vec<String> {
    let lengths: Vec<usize> = names.iter().map(|name| name.chars().count()).collect();
    let shortest = lengths.iter().min().copied().unwrap_or(0);
    let most = (width + GAP) / (shortest + GAP);
    for count in (2..=most.min(names.len())).rev() {
        let lines = names.len().div_ceil(count);
        let widths: Vec<usize> = lengths
            .chunks(lines)
            .map(|column| column.iter().max().copied().unwrap_or(0))
            .collect();
        let needed = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        if needed > width {
            continue;
        }
        let line = |at: usize| {
            let mut line = String::new();
            for (column, room) in widths.iter().enumerate() {
                let Some(name) = names.get(column * lines + at) else {
                    break;
                };
                let is_last = names.get((column + 1) * lines + at).is_none();
                line.push_str(name);
                if !is_last {
                    let pad = room + GAP - name.chars().count();
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            line
        };
        return (0..lines).map(line).collect();
    }
    names.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &str, width: usize, want: &[&str]) {
        let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
        assert_eq!(columns(&names, width), want);
    }

    #[test]
    fn names_stand_in_columns() {
        check("a b c", 80, &["a  b  c"]);
        check("a b c d e", 7, &["a  c  e", "b  d"]);
        check("long-name b c", 4, &["long-name", "b", "c"]);
        check("aa bbbb c", 8, &["aa    c", "bbbb"]);
        assert!(columns(&[], 80).is_empty());
    }
}
