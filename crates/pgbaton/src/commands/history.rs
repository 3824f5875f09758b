use serde_json::Value;

use crate::cli::{Align, Failure, Format, Members, Out, Table};
use crate::commands::list::plain;

/// `history`.
pub(crate) async fn run(
    members: &Members,
    cluster: Option<&str>,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let view = members.cluster(cluster).await?;
    let document = members.get_any(&view, "/history").await?;
    let columns = [
        ("TL", Align::Right),
        ("LSN", Align::Right),
        ("Reason", Align::Left),
        ("Timestamp", Align::Left),
        ("New Leader", Align::Left),
    ];
    let rows = document.as_array().cloned().unwrap_or_default();
    let cell = |row: &Value, column: usize| row.get(column).cloned().unwrap_or_default();
    if format == Format::Json {
        let objects = rows.iter().map(|row| {
            let cells = columns.iter().enumerate().map(|(column, (name, _))| ((*name).to_owned(), cell(row, column)));
            Value::Object(cells.filter(|(_, value)| !value.is_null()).collect())
        });
        return out.json(&Value::Array(objects.collect()));
    }
    let mut table = Table::new("", &columns);
    for row in &rows {
        let text = |column| if cell(row, column).is_null() { String::new() } else { plain(&cell(row, column)) };
        table.row((0..columns.len()).map(text).collect());
    }
    out.raw(&table.render())
}
