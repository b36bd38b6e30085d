//! Figures and plots in docs/performance.md, between two marks; what is around them is written by people.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::markdown;
use super::plot;
use super::report::Report;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --publish` -->";
const END: &str = "<!-- end of figures -->";

/// Writes the figures of a run into the documents.
pub fn publish(report: &Report, docs: &Path) -> Result<()> {
    let page = docs.join("performance.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let figures = markdown::of(report, Some("performance"));
    let text = replaced(&text, &figures).with_context(|| format!("in {}", page.display()))?;
    plot::all(report, &docs.join("performance"))?;
    fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// The text with other figures between its marks.
fn replaced(text: &str, figures: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("the mark {BEGIN:?} is missing"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("the mark {END:?} is missing"))?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        figures.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "new").unwrap(), once);
    }

    #[test]
    fn a_page_without_marks_stays_as_it_is() {
        assert!(replaced("before", "new").is_err());
        assert!(replaced(&format!("{END}{BEGIN}"), "new").is_err());
    }
}
