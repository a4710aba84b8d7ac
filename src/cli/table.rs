//! Tables for people: columns as wide as what is in them, names escaped, numbers to the right.

use unicode_width::UnicodeWidthStr;

/// A table that is being filled.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column heads; one that begins with `>` is set to the right.
    pub fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// One row. Cells must be safe for a terminal.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// As lines; nothing if there are no rows.
    pub fn render(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let heads: Vec<String> = self.heads.iter().map(|head| head.trim_start_matches('>').to_owned()).collect();
        let right: Vec<bool> = self.heads.iter().map(|head| head.starts_with('>')).collect();
        let width = |column: usize| {
            std::iter::once(&heads).chain(&self.rows).filter_map(|row| row.get(column)).map(|cell| cell.width()).max()
        };
        let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[column].saturating_sub(cell.width()));
                if column > 0 {
                    line.push_str("  ");
                }
                if right[column] {
                    line.push_str(&gap);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&gap);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(vec!["größe".into(), "5".into()]);
        table.row(vec!["漢字".into(), "1234".into()]);
        assert_eq!(table.render(), "NAME   SIZE\ngröße     5\n漢字   1234\n");
        assert_eq!(Table::new(&["A"]).render(), "");
    }
}
