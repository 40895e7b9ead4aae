//! A page: headings, facts, tables and figures, one after the other.

use super::{Series, escape};
use crate::output::Table;

/// Colours and layout, light and dark, wide and narrow.
const STYLE: &str = include_str!("style.css");

/// A report that is being written.
pub struct Page {
    title: String,
    body: String,
    plots: usize,
}

impl Page {
    /// A page under `title`.
    pub fn new(title: &str) -> Self {
        let title = escape(title);
        Page {
            body: format!("<h1>{title}</h1>\n"),
            title,
            plots: 0,
        }
    }

    /// What was done and with what, a name and a value each.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        self.body.push_str("<dl>\n");
        for (name, value) in facts {
            let (name, value) = (escape(name), escape(value));
            let row = format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n");
            self.body.push_str(&row);
        }
        self.body.push_str("</dl>\n");
    }

    /// The heading of what follows.
    pub fn heading(&mut self, text: &str) {
        self.body.push_str(&format!("<h2>{}</h2>\n", escape(text)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.body.push_str(&format!("<p>{}</p>\n", escape(text)));
    }

    /// A text that somebody or something else wrote, under what it is called.
    pub fn quotation(&mut self, name: &str, text: &str) {
        let (name, text) = (escape(name), escape(text));
        let quotation = format!("<blockquote><b>{name}</b> {text}</blockquote>\n");
        self.body.push_str(&quotation);
    }

    /// A table, which scrolls by itself where it is wider than the page.
    pub fn table(&mut self, caption: &str, table: &Table) {
        let caption = escape(caption);
        self.body.push_str(&format!(
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n\
             <table><caption>{caption}</caption>\n"
        ));
        for (index, row) in table.rows().iter().enumerate() {
            self.body.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                self.body.push_str(&match (index, column) {
                    (0, _) => format!("<th scope=\"col\">{cell}</th>"),
                    (_, 0) => format!("<th scope=\"row\">{cell}</th>"),
                    _ => format!("<td>{cell}</td>"),
                });
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</table></div>\n");
    }

    /// Begins a figure, whose plots follow; `legend` lists what is drawn in them.
    pub fn begin_figure(&mut self, caption: &str, legend: &[Series]) {
        let caption = escape(caption);
        self.body
            .push_str(&format!("<figure><figcaption>{caption}</figcaption>\n"));
        if !legend.is_empty() {
            self.body.push_str("<ul class=\"legend\">");
            for series in legend {
                let marker = series.look.marker((7.0, 7.0), series.hollow, None);
                let name = escape(&series.name);
                self.body.push_str(&format!(
                    "<li><svg viewBox=\"0 0 14 14\" aria-hidden=\"true\">{marker}</svg>{name}</li>"
                ));
            }
            self.body.push_str("</ul>\n");
        }
        self.body.push_str("<div class=\"plots\">\n");
    }

    /// A plot of the figure, by what draws it under the id that it is given.
    pub fn plot(&mut self, heading: Option<&str>, draw: impl FnOnce(&str) -> String) {
        self.plots += 1;
        let svg = draw(&format!("plot-{}", self.plots));
        let heading = heading.map_or_else(String::new, |text| format!("<h3>{}</h3>", escape(text)));
        let class = if heading.is_empty() { "large" } else { "small" };
        self.body.push_str(&format!(
            "<div class=\"plot {class}\">{heading}{svg}</div>\n"
        ));
    }

    /// Ends the figure.
    pub fn end_figure(&mut self) {
        self.body.push_str("</div></figure>\n");
    }

    /// The file.
    pub fn html(&self) -> String {
        let Page { title, body, .. } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <meta name=\"color-scheme\" content=\"light dark\"/>\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\
             </main>\n</body>\n</html>\n"
        )
    }
}
