//! Tables as `patronictl` prints them, so that what reads one reads the other.

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers and positions.
    Right,
}

/// A table with a title in its upper edge.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row; as many cells as there are columns. A cell may have several lines.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text that ends with a newline.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let rule = rule(&widths);
        let several_lines = self.rows.iter().flatten().any(|cell| cell.contains('\n'));
        let mut text = titled(&rule, &self.title);
        let headers: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        self.line(&mut text, &widths, &headers);
        text.push_str(&rule);
        for row in &self.rows {
            for line in 0..row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0) {
                let cells: Vec<&str> = row.iter().map(|cell| cell.lines().nth(line).unwrap_or("")).collect();
                self.line(&mut text, &widths, &cells);
            }
            if several_lines {
                text.push_str(&rule);
            }
        }
        if !several_lines && !self.rows.is_empty() {
            text.push_str(&rule);
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.lines());
        cells.chain([self.columns[column].0.as_str()]).map(|line| line.chars().count()).max().unwrap_or(0)
    }

    fn line(&self, text: &mut String, widths: &[usize], cells: &[&str]) {
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (left, right) = if *align == Align::Left { ("", padding.as_str()) } else { (padding.as_str(), "") };
            text.push_str(&format!("| {left}{cell}{right} "));
        }
        text.push_str("|\n");
    }
}

fn rule(widths: &[usize]) -> String {
    let edges: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    format!("+{}+\n", edges.join("+"))
}

/// The upper edge with the title laid over it from the second character on.
fn titled(rule: &str, title: &str) -> String {
    let length = title.chars().count();
    if title.is_empty() || length + 3 > rule.len() {
        return if title.is_empty() { rule.to_owned() } else { format!("+{title}+\n") };
    }
    format!("+{title}{}", &rule[length + 1..])
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_table_looks_as_in_patroni() {
        let mut table = Table::new(
            " Cluster: demo (7412) ",
            &[("Member", Align::Left), ("State", Align::Left), ("TL", Align::Right)],
        );
        table.row(vec!["pg-1".to_owned(), "running".to_owned(), "1".to_owned()]);
        table.row(vec!["pg-2".to_owned(), "streaming".to_owned(), "12".to_owned()]);
        expect![[r"
            + Cluster: demo (7412) ---+
            | Member | State     | TL |
            +--------+-----------+----+
            | pg-1   | running   |  1 |
            | pg-2   | streaming | 12 |
            +--------+-----------+----+
        "]]
        .assert_eq(&table.render());
    }

    #[test]
    fn rows_of_several_lines_are_separated() {
        let mut table = Table::new("", &[("Member", Align::Left), ("Tags", Align::Left)]);
        table.row(vec!["pg-1".to_owned(), "a: 1\nb: 2".to_owned()]);
        expect![[r"
            +--------+------+
            | Member | Tags |
            +--------+------+
            | pg-1   | a: 1 |
            |        | b: 2 |
            +--------+------+
        "]]
        .assert_eq(&table.render());
    }
}
