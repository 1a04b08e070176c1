//! Plain columns of text, without lines around them, that fit a given width.
//!
//! Nothing here knows what it lays out, and nothing here writes. Text from
//! outside (a device's model, a broker's error) goes through [`plain`], so that it
//! can't move the technician's cursor.

use anstyle::Style;
use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width as ColumnWidth, presets,
};

/// Columns of the terminal; `None` when nothing limits a line (a pipe, a file).
pub type Width = Option<u16>;

/// Between two columns.
const GAP: u16 = 2;

/// Width of the names in [`pair`], gap included: the longest is `incarnation`.
const NAME_WIDTH: u16 = 13;

/// A column's heading, and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Text, that wraps where there is no room.
    Left(&'static str),
    /// Text that is never broken: a time, a digest.
    Whole(&'static str),
    /// Numbers, never broken either.
    Right(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Column::Left(heading) | Column::Whole(heading) | Column::Right(heading) => heading,
        }
    }

    fn alignment(self) -> CellAlignment {
        match self {
            Column::Left(_) | Column::Whole(_) => CellAlignment::Left,
            Column::Right(_) => CellAlignment::Right,
        }
    }

    fn lay(self, column: &mut comfy_table::Column) {
        column.set_cell_alignment(self.alignment());
        if !matches!(self, Column::Left(_)) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// A table with bold headings; nothing at all without rows.
pub fn columns<R>(columns: &[Column], rows: R, width: Width) -> String
where
    R: IntoIterator<Item = Vec<String>>,
{
    let mut table = bare(width);
    table.set_header(columns.iter().map(|column| column.heading()));
    table.add_rows(rows.into_iter().map(cells));
    if table.is_empty() {
        return String::new();
    }
    space(&mut table);
    table.column_iter_mut().zip(columns).for_each(|(it, column)| column.lay(it));
    let text = lay(&table);
    let (heading, rows) = text.split_once('\n').unwrap_or((&text, ""));
    paint(Style::new().bold(), heading) + "\n" + rows
}

/// Rows without headings.
pub fn rows<R>(rows: R, width: Width) -> String
where
    R: IntoIterator<Item = Vec<String>>,
{
    let mut table = bare(width);
    table.add_rows(rows.into_iter().map(cells));
    space(&mut table);
    lay(&table)
}

/// One line of `name  value`; the value wraps under itself.
pub fn pair(name: &str, value: &str, width: Width) -> String {
    let mut table = bare(width);
    table.add_row(cells(vec![name.to_owned(), value.to_owned()]));
    space(&mut table);
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::Absolute(ColumnWidth::Fixed(NAME_WIDTH)));
    }
    lay(&table)
}

/// Parts of a page with a line between them; those that say nothing are left out.
pub fn sections(sections: impl IntoIterator<Item = String>) -> String {
    let sections: Vec<_> = sections.into_iter().filter(|text| !text.is_empty()).collect();
    sections.join("\n")
}

/// `text` in `style`, less the end of its last line; [`crate::output`] takes the style
/// out again where there is no colour.
pub fn paint(style: Style, text: &str) -> String {
    let (text, end) = match text.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (text, ""),
    };
    format!("{style}{text}{style:#}{end}")
}

/// `text` on one line, with no character that a terminal would act on.
pub fn plain(text: &str) -> String {
    let safe = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.trim_end().chars().map(safe).collect()
}

fn bare(width: Width) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width {
        Some(width) => table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

fn cells(row: Vec<String>) -> Row {
    row.iter().map(|cell| plain(cell)).into()
}

fn space(table: &mut Table) {
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
    }
}

fn lay(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::{Column::*, *};

    fn stripped(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn numbers_stand_right_and_long_text_wraps_under_itself() {
        let rows = || {
            [
                vec!["metric".into(), "12".into(), "a long story of how it came to this".into()],
                vec!["event".into(), "123456".into(), "-".into()],
            ]
        };
        let header = [Left("CLASS"), Right("PENDING"), Left("NOTE")];
        expect![[r#"
            CLASS   PENDING  NOTE
            metric       12  a long story of how it
                             came to this
            event    123456  -
        "#]]
        .assert_eq(&stripped(&columns(&header, rows(), Some(40))));
        expect![[r#"
            CLASS   PENDING  NOTE
            metric       12  a long story of how it came to this
            event    123456  -
        "#]]
        .assert_eq(&stripped(&columns(&header, rows(), None)));
    }

    #[test]
    fn a_table_without_rows_is_nothing() {
        assert_eq!(columns(&[Left("CLASS")], [], Some(80)), "");
    }

    #[test]
    fn a_device_cannot_move_the_cursor() {
        let text = pair("model", "Evil\x1b[2J\r\nDisk", None);
        assert_eq!(text, "model        Evil\u{fffd}[2J\u{fffd} Disk\n");
    }
}
