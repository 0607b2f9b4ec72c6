//! Aligned columns of plain text.

/// Rows under a heading. Cells are shown on one line, whatever is in them.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }

    /// Two spaces between columns; nothing after the last cell of a line. With
    /// a width, the last column is cut to it.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if at + 1 < row.len() {
                    let pad = widths[at].saturating_sub(cell.chars().count()) + 2;
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            text.push_str(&cut(line.trim_end(), width));
            text.push('\n');
        }
        text
    }
}

/// `key: value` lines with aligned values.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(key, _)| key.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let pad = width - key.chars().count() + 2;
        let line = format!("{key}:{}{}", " ".repeat(pad), one_line(value));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text from elsewhere, made safe for a terminal: control characters, which
/// could move the cursor or rename the window, become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if width > 1 && line.chars().count() > width => {
            line.chars().take(width - 1).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(&["PEER", "STATE", "GRANTS"]);
        table.row(["home".into(), "connected".into(), "editor".into()]);
        table.row(["a-long-name".into(), "idle".into(), String::new()]);
        assert_eq!(
            table.render(None),
            "PEER         STATE      GRANTS\n\
             home         connected  editor\n\
             a-long-name  idle\n"
        );
    }

    #[test]
    fn a_terminal_cuts_the_line() {
        let mut table = Table::new(&["A"]);
        table.row(["0123456789".into()]);
        assert_eq!(table.render(Some(5)), "A\n0123…\n");
        assert_eq!(table.render(Some(10)), "A\n0123456789\n");
    }

    #[test]
    fn escapes_from_elsewhere_do_not_reach_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(["x\u{1b}[2J\ny\u{9b}".into()]);
        assert_eq!(table.render(None), "A\nx [2J y\n");
        assert_eq!(
            pairs(&[("k", "a\tb".into()), ("key", String::new())]),
            "k:    a b\nkey:\n"
        );
    }
}
