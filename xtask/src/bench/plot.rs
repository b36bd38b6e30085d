//! A section as a picture: a bar for each case as long as its median, with the least and the greatest marked.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::markdown;
use super::report::{Report, Section};

const WIDTH: u32 = 760;
const ROW: i32 = 26;
const TOP: i32 = 44;
/// Where names end and bars begin.
const LEFT: i32 = 270;
/// Room for the value behind the longest bar.
const RIGHT: i32 = 90;
const BAR: RGBColor = RGBColor(0x4c, 0x78, 0xa8);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);

/// Draws all sections into a folder, in which there are no other plots then.
pub fn all(report: &Report, folder: &Path) -> Result<()> {
    if folder.exists() {
        for entry in fs::read_dir(folder)?.flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "svg")
            {
                fs::remove_file(entry.path())?;
            }
        }
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for group in &report.groups {
        for section in &group.findings.sections {
            draw(
                section,
                &folder.join(markdown::file_name(&group.name, &section.title)),
            )?;
        }
    }
    Ok(())
}

/// Draws a section into an SVG file.
fn draw(section: &Section, path: &Path) -> Result<()> {
    let height = TOP + ROW * section.figures.len() as i32 + 12;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    render(section, &area).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn render<B: DrawingBackend>(
    section: &Section,
    area: &DrawingArea<B, plotters::coord::Shift>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let (unit, one, digits) = section.unit.shown();
    let most = section
        .figures
        .iter()
        .map(|figure| figure.values.spread().1);
    let most = most.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let place = |value: f64| LEFT + (value / most * f64::from(WIDTH as i32 - LEFT - RIGHT)) as i32;
    let text = |size: i32, side: HPos| {
        TextStyle::from(("sans-serif", size).into_font())
            .color(&INK)
            .pos(Pos::new(side, VPos::Center))
    };
    area.fill(&WHITE)?;
    area.draw_text(
        &format!("{} ({unit})", section.title),
        &text(17, HPos::Left),
        (12, TOP / 2),
    )?;
    for (row, figure) in section.figures.iter().enumerate() {
        let middle = TOP + ROW * row as i32 + ROW / 2;
        area.draw_text(&figure.case, &text(13, HPos::Right), (LEFT - 8, middle))?;
        if figure.values.0.is_empty() {
            continue;
        }
        let (median, (low, high)) = (figure.values.median(), figure.values.spread());
        area.draw(&Rectangle::new(
            [(LEFT, middle - 8), (place(median), middle + 8)],
            BAR.filled(),
        ))?;
        area.draw(&PathElement::new(
            [(place(low), middle), (place(high), middle)],
            INK,
        ))?;
        for end in [low, high] {
            area.draw(&PathElement::new(
                [(place(end), middle - 4), (place(end), middle + 4)],
                INK,
            ))?;
        }
        let value = format!("{:.digits$}", median / one);
        area.draw_text(&value, &text(13, HPos::Left), (place(high) + 6, middle))?;
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::super::report::Unit;
    use super::*;

    #[test]
    fn every_case_is_in_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        let mut section = Section::new("Rate", Unit::PacketsPerSecond);
        section.add("one", [1e6, 2e6].into_iter().collect());
        section.add("none", Default::default());
        draw(&section, &path).unwrap();
        let text = fs::read_to_string(path).unwrap();
        for word in ["<svg", "Rate", "one", "none", "1500"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
