//! The plots, on white, so that they are readable on pages of any colour.

use std::fmt::Display;

use peers::error::{Context, Error, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::backlog::Backlog;
use crate::results::{Case, Row};
use crate::rig::Engine;
use crate::stats::{Spread, as_f64, u64_as_f64};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (960, 860);
const FONT: &str = "sans-serif";
const DIRECT: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const REST: RGBColor = RGBColor(0xd6, 0x6a, 0x0c);
const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);
/// Distance between the points of the two engines, in cases.
const APART: f64 = 0.14;
/// Top of the lines between the sets, in pixels: below the legend.
const BELOW_LEGEND: i32 = 54;

fn drawn<T, E: Display>(outcome: std::result::Result<T, E>) -> Result<T> {
    outcome.map_err(|error| Error::new(error.to_string())).context("plot")
}

/// Throughput relative to clamd alone, and processor time, by case.
///
/// # Errors
/// When plotting fails.
pub(super) fn cases(cases: &[Case]) -> Result<String> {
    let cases: Vec<&Case> = cases.iter().filter(|case| !case.reports).collect();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        drawn(root.fill(&WHITE))?;
        let (upper, lower) = root.split_vertically(SIZE.1 / 2);
        throughput(&upper, &cases)?;
        cost(&lower, &cases)?;
        drawn(root.present())?;
    }
    Ok(text)
}

fn throughput(area: &Area<'_>, cases: &[&Case]) -> Result<()> {
    let highest = rows(cases).map(|(_, row)| row.to_clamd.most).fold(1.0, f64::max);
    let title = "Throughput, relative to clamd alone with the same objects and streams";
    // The legend is above the points.
    let y = 0.0..highest * 130.0;
    panel(area, cases, title, "% of clamd alone", y, |row| scaled(row.to_clamd, 100.0), &[100.0])
}

fn cost(area: &Area<'_>, cases: &[&Case]) -> Result<()> {
    let ends = |end: fn(f64, f64) -> f64, start| {
        rows(cases).map(|(_, row)| row.cpu_ms_per_object.median.max(0.05)).fold(start, end)
    };
    let y = (ends(f64::min, 1.0) / 2.0..ends(f64::max, 2.0) * 3.0).log_scale();
    let title = "CPU time of the daemon for one object";
    panel(area, cases, title, "ms (log scale)", y, |row| scaled(row.cpu_ms_per_object, 1.0), &[])
}

fn rows<'a>(cases: &'a [&Case]) -> impl Iterator<Item = (usize, &'a Row)> {
    let numbered = cases.iter().enumerate();
    numbered.flat_map(|(number, case)| case.rows.iter().map(move |row| (number, row)))
}

fn scaled(Spread { median, least, most }: Spread, by: f64) -> Spread {
    Spread { median: median * by, least: least * by, most: most * by }
}

/// One panel: a point and its spread for each row, the cases next to each other.
fn panel<Y>(
    area: &Area<'_>,
    cases: &[&Case],
    title: &str,
    unit: &str,
    y: Y,
    figure: impl Fn(&Row) -> Spread,
    lines: &[f64],
) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let width = as_f64(cases.len());
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin(14)
            .caption(title, (FONT, 17).into_font().color(&BLACK))
            .x_label_area_size(62)
            .y_label_area_size(66)
            .build_cartesian_2d(-0.5..width - 0.5, y),
    )?;
    drawn(
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
            .axis_style(GREY)
            .x_labels(0)
            .y_labels(7)
            .y_label_formatter(&|value| tick(*value))
            .label_style((FONT, 13).into_font().color(&BLACK))
            .y_desc(unit)
            .axis_desc_style((FONT, 14).into_font().color(&BLACK))
            .draw(),
    )?;
    for line in lines {
        let ends = [(-0.5, *line), (width - 0.5, *line)];
        drawn(chart.draw_series([PathElement::new(ends, GREY.stroke_width(1))]))?;
    }
    for (engine, colour, shift) in
        [(Engine::Clamd, DIRECT, -APART), (Engine::ClamavRest, REST, APART)]
    {
        let points: Vec<(f64, Spread)> = rows(cases)
            .filter(|(_, row)| row.engine == engine)
            .map(|(number, row)| (as_f64(number) + shift, figure(row)))
            .collect();
        let bars = points.iter().map(|(x, spread)| {
            PathElement::new([(*x, spread.least), (*x, spread.most)], colour.stroke_width(2))
        });
        drawn(chart.draw_series(bars))?;
        let dots =
            points.iter().map(|(x, spread)| Circle::new((*x, spread.median), 5, colour.filled()));
        let name = match engine {
            Engine::Clamd => "clamd directly",
            Engine::ClamavRest => "through clamav-rest",
        };
        drawn(chart.draw_series(dots))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
    }
    if lines.is_empty() {
        // The legend is in the panel above.
        return labels(area, &chart.plotting_area().get_pixel_range(), cases);
    }
    drawn(
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .label_font((FONT, 13).into_font().color(&BLACK))
            .draw(),
    )?;
    labels(area, &chart.plotting_area().get_pixel_range(), cases)
}

/// The labels below the axis: the slots of each case, and a size for all cases that share it.
fn labels(
    area: &Area<'_>,
    (across, down): &(std::ops::Range<i32>, std::ops::Range<i32>),
    cases: &[&Case],
) -> Result<()> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    // The range is relative to the picture, but the area draws relative to its own corner.
    let (left, top) = area.get_base_pixel();
    let middle = Pos::new(HPos::Center, VPos::Top);
    let small = (FONT, 13).into_font().color(&BLACK).pos(middle);
    let large = (FONT, 14).into_font().color(&BLACK).pos(middle);
    let step = f64::from(across.end - across.start) / as_f64(cases.len().max(1));
    let at = |position: f64| pixel(f64::from(across.start - left) + (position + 0.5) * step);
    let bottom = down.end - top;
    let text = |words: &str, style: &TextStyle<'_>, x: i32, y: i32| {
        drawn(area.draw_text(words, style, (x, y)))
    };
    for (number, case) in cases.iter().enumerate() {
        text(&format!("×{}", case.slots), &small, at(as_f64(number)), bottom + 6)?;
    }
    let mut first = 0;
    while first < cases.len() {
        let same = cases[first..].iter().take_while(|case| case.set == cases[first].set).count();
        let centre = as_f64(first) + (as_f64(same) - 1.0) / 2.0;
        let name =
            cases[first].set.replace("KiB", " KiB").replace("MiB", " MiB").replace("GiB", " GiB");
        text(&name, &large, at(centre), bottom + 24)?;
        first += same;
        if first < cases.len() {
            let x = at(as_f64(first) - 0.5);
            let edge = PathElement::new(
                [(x, down.start - top + BELOW_LEGEND), (x, bottom + 40)],
                GREY.mix(0.4),
            );
            drawn(area.draw(&edge))?;
        }
    }
    text(
        "size of the objects, × SCAN_CONCURRENCY",
        &large,
        at(as_f64(cases.len()) / 2.0 - 0.5),
        bottom + 43,
    )
}

#[expect(clippy::cast_possible_truncation, reason = "a picture has some hundred pixels")]
fn pixel(position: f64) -> i32 {
    position.round() as i32
}

fn tick(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

/// Rate and memory during a long drain.
///
/// # Errors
/// When plotting fails.
pub(super) fn backlog(backlog: &Backlog) -> Result<String> {
    let points = |figure: fn(&crate::backlog::Sample) -> f64| -> Vec<(f64, f64)> {
        backlog.samples.iter().map(|sample| (sample.seconds, figure(sample))).collect()
    };
    let rate = points(|sample| sample.rate);
    let memory = points(|sample| u64_as_f64(sample.resident_kib) / 1024.0);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (960, 480)).into_drawing_area();
        drawn(root.fill(&WHITE))?;
        let (upper, lower) = root.split_vertically(240);
        let title = format!("{} notifications, {} slots", backlog.notifications, backlog.slots);
        curve(&upper, &title, "objects/s", &rate, DIRECT)?;
        curve(&lower, "", "resident, MiB", &memory, REST)?;
        drawn(root.present())?;
    }
    Ok(text)
}

fn curve(
    area: &Area<'_>,
    title: &str,
    unit: &str,
    points: &[(f64, f64)],
    colour: RGBColor,
) -> Result<()> {
    let end = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(1.0, f64::max);
    let (right, top) = (end(|point| point.0), end(|point| point.1));
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin(12)
            .caption(title, (FONT, 16).into_font().color(&BLACK))
            .x_label_area_size(40)
            .y_label_area_size(66)
            .build_cartesian_2d(0.0..right, 0.0..top * 1.15),
    )?;
    drawn(
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
            .axis_style(GREY)
            .x_desc("seconds")
            .y_desc(unit)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|value| tick(*value))
            .label_style((FONT, 13).into_font().color(&BLACK))
            .axis_desc_style((FONT, 14).into_font().color(&BLACK))
            .draw(),
    )?;
    drawn(chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::SETS;

    fn row(engine: Engine, ratio: f64, cpu: f64) -> Row {
        let of = |median: f64| Spread { median, least: median * 0.9, most: median * 1.1 };
        Row {
            engine,
            objects_per_second: of(1.0),
            megabytes_per_second: of(1.0),
            to_clamd: of(ratio),
            to_pair: of(ratio),
            cpu_ms_per_object: of(cpu),
            cpu_s_per_gib: of(1.0),
            share: of(0.2),
            peak_mib: of(40.0),
            deliver_to_ack: None,
        }
    }

    #[test]
    fn every_set_has_its_place() {
        let all = SETS.iter().flat_map(|set| set.slots.iter().map(move |slots| (set, *slots)));
        let all: Vec<Case> = all
            .map(|(set, slots)| {
                let cost = 2.0 + u64_as_f64(set.longest()) / 3e5;
                let rows = vec![row(Engine::Clamd, 0.9, cost), row(Engine::ClamavRest, 0.5, cost)];
                let set = set.name.to_owned();
                let (runs, limits) = (Vec::new(), None);
                Case { set, slots, reports: false, objects: 1, bytes: 1, runs, limits, rows }
            })
            .collect();
        let picture = cases(&all).unwrap();
        for name in ["1 KiB", "10 KiB", "1 MiB", "64 MiB", "1 GiB", "mixed", "×32"] {
            assert!(picture.contains(name), "{name}");
        }
    }
}
