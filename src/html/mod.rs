//! Reports as one HTML file each: text, tables and plots, without scripts and without anything that
//! lies elsewhere. What is written is well-formed XML too, so that any parser can check it.

mod axis;
mod bar_plot;
mod layers;
mod look;
mod models;
mod page;
mod point_plot;

pub use axis::Scale;

use axis::Axis;
use bar_plot::{Bar, BarPlot};
pub use layers::{LayerSeries, kind_and_block, layer_plots};
pub use look::Look;
pub use models::{Model, quality_plot, size_plot, speed_plot};
pub use page::Page;
use point_plot::{Point, PointPlot, Series, Size};

/// `text` as it may stand in an element or between quotes. Characters that XML has no place for
/// become replacement characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_html_is_escaped() {
        assert_eq!(
            escape("<a href=\"x\">R&D's</a>"),
            "&lt;a href=&quot;x&quot;&gt;R&amp;D&#39;s&lt;/a&gt;"
        );
        assert_eq!(escape("a\0b\u{1b}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
    }
}
