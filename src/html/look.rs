//! How a series is drawn: a colour of the style sheet and the shape of its points, so that colour
//! never is the only difference.

use burn_blr::Method;

use super::escape;

/// The corners of an upright cross.
const PLUS: [(f64, f64); 12] = [
    (-1.3, -4.4),
    (1.3, -4.4),
    (1.3, -1.3),
    (4.4, -1.3),
    (4.4, 1.3),
    (1.3, 1.3),
    (1.3, 4.4),
    (-1.3, 4.4),
    (-1.3, 1.3),
    (-4.4, 1.3),
    (-4.4, -1.3),
    (-1.3, -1.3),
];

/// What a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Dense,
    LowRank,
    Monarch,
    Blast,
    /// More than one structure.
    Mixed,
}

impl Look {
    /// The look of a model with layers of these looks.
    pub fn of_all(looks: impl Iterator<Item = Look>) -> Self {
        let mut found = None;
        for look in looks.filter(|&look| look != Look::Dense) {
            match found {
                None => found = Some(look),
                Some(other) if other == look => {}
                Some(_) => return Look::Mixed,
            }
        }
        found.unwrap_or(Look::Dense)
    }

    /// The look of a structure in words, such as `blast b 16 r 256`.
    pub fn of_structure(structure: &str) -> Self {
        let method = structure.split(' ').next().unwrap_or_default();
        method.parse::<Method>().map_or(Look::Dense, Look::from)
    }

    /// The name in legends.
    pub fn name(self) -> &'static str {
        match self {
            Look::Dense => "dense",
            Look::LowRank => "low-rank",
            Look::Monarch => "Monarch",
            Look::Blast => "BLAST",
            Look::Mixed => "mixed",
        }
    }

    /// The class that gives it its colour.
    pub fn class(self) -> &'static str {
        match self {
            Look::Dense => "dense",
            Look::LowRank => "low-rank",
            Look::Monarch => "monarch",
            Look::Blast => "blast",
            Look::Mixed => "mixed",
        }
    }

    /// A point at (x, y), and what is said when it is pointed at.
    pub fn marker(self, (x, y): (f64, f64), hollow: bool, text: Option<&str>) -> String {
        let hollow = if hollow { " hollow" } else { "" };
        let class = format!("class=\"marker {}{hollow}\"", self.class());
        let text = text.map_or_else(String::new, |text| {
            format!("<title>{}</title>", escape(text))
        });
        let corners: &[(f64, f64)] = match self {
            Look::LowRank => {
                let place = format!("cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.8\"");
                return format!("<circle {class} {place}>{text}</circle>");
            }
            Look::Dense => &PLUS,
            Look::Monarch => &[(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
            Look::Blast => &[(0.0, -4.8), (4.4, 3.4), (-4.4, 3.4)],
            Look::Mixed => &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
        };
        let corners: Vec<String> = corners
            .iter()
            .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy))
            .collect();
        let corners = corners.join(" ");
        format!("<polygon {class} points=\"{corners}\">{text}</polygon>")
    }
}

impl From<Method> for Look {
    fn from(method: Method) -> Self {
        match method {
            Method::LowRank => Look::LowRank,
            Method::Monarch => Look::Monarch,
            Method::Blast => Look::Blast,
        }
    }
}
