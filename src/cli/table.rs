//! Aligned columns for people.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a header line.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell is empty, one too many is left out.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Header and rows, columns two spaces apart, no spaces at the ends of lines.
    pub(super) fn render(&self) -> String {
        let widths = self.widths();
        let header: Vec<String> = self.columns.iter().map(|(title, _)| title.to_uppercase()).collect();
        let lines = std::iter::once(&header).chain(&self.rows).map(|cells| self.line(cells, &widths));
        lines.fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }

    fn widths(&self) -> Vec<usize> {
        let cell_width = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
        self.columns
            .iter()
            .enumerate()
            .map(|(at, (title, _))| self.rows.iter().map(|row| cell_width(row, at)).fold(title.len(), usize::max))
            .collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let padded = self.columns.iter().zip(widths).enumerate().map(|(at, ((_, align), width))| {
            let cell = cells.get(at).map_or("", String::as_str);
            match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            }
        });
        padded.collect::<Vec<_>>().join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_numbers_right() {
        let mut table = Table::new(&[("route", Align::Left), ("units", Align::Right)]);
        table.row(vec!["GET /signals".into(), "7".into()]);
        table.row(vec!["GET /ü".into(), "123456".into()]);
        table.row(vec!["*".into()]);
        assert_eq!(
            table.render(),
            "ROUTE          UNITS\n\
             GET /signals       7\n\
             GET /ü        123456\n\
             *\n"
        );
    }
}
