//! Pictures of a run: SVG, one for each question.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::contenders::Contender;
use super::matrix::{BULK, CONNECT, LOSSY, OPEN_LOOP, OUTSTANDING, ROUND_TRIP, SPARSE};
use super::results::{Results, short};

const SIZE: (u32, u32) = (900, 540);
const FONT: &str = "sans-serif";

/// A line: its name and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws what was measured; returns the files.
pub(crate) fn draw(results: &Results, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut file = |name: &str| {
        files.push(folder.join(name));
        files[files.len() - 1].clone()
    };

    let percentiles: Vec<Line> = (results.contenders(ROUND_TRIP))
        .map(|contender| (contender.name.to_owned(), results.percentiles(ROUND_TRIP, contender)))
        .collect();
    // By the nines: 90 %, 99 %, 99.9 % are equally far apart.
    let nines = |line: Line| {
        let points = line.1.into_iter().filter(|(percentile, _)| *percentile < 100.0);
        (line.0, points.map(|(percentile, us)| (100.0 / (100.0 - percentile), us)).collect())
    };
    let percentiles: Vec<Line> = percentiles.into_iter().map(nines).collect();
    if has_points(&percentiles) {
        let percent = |x: f64| format!("{:.*}", (x.log10() + 1e-6).max(1.0) as usize - 1, 100.0 - 100.0 / x);
        lines(&file("latency.svg"), ROUND_TRIP, ("percentile", &percent), "latency, us", &percentiles)?;
    }

    let offered = series(results, OPEN_LOOP, "p99_us");
    if has_points(&offered) {
        let title = "rate and p99, open loop, 1 KiB, veth";
        lines(&file("rate.svg"), title, ("requests per second", &short), "p99 from when due, us", &offered)?;
    }

    let lossy = series(results, LOSSY, "gbit_per_s");
    if has_points(&lossy) {
        // A logarithm has no zero: what loses nothing is at 1 of 100 000.
        let at_least = |(name, points): &Line| (name.clone(), points.iter().map(|(x, y)| (x.max(0.1), *y)).collect());
        let lossy: Vec<Line> = lossy.iter().map(at_least).collect();
        let percent = |x: f64| if x <= 0.1 { "0 %".to_owned() } else { format!("{} %", x / 100.0) };
        lines(&file("loss.svg"), "goodput under loss, 64 KiB", ("lost", &percent), "Gbit/s", &lossy)?;
    }

    for (name, title, experiment, field) in [
        ("sparse.svg", "one request per 10 ms: p50, us", SPARSE, "p50_us"),
        ("cpu.svg", "CPU time of a 1 KiB round trip, 32 outstanding, both sides, us", OUTSTANDING, "cpu_us_per_op"),
        ("outstanding.svg", "1 KiB round trips per second, 32 outstanding", OUTSTANDING, "rate_per_s"),
        ("bulk.svg", "64 KiB one way, Gbit/s", BULK, "gbit_per_s"),
        ("connect.svg", "connects and closes per second, loopback", CONNECT, "rate_per_s"),
    ] {
        let value =
            |contender: &Contender| Some((contender.name.to_owned(), results.median(experiment, contender, field)?));
        let values: Vec<_> = results.contenders(experiment).filter_map(value).collect();
        if !values.is_empty() {
            bars(&file(name), title, &values)?;
        }
    }
    Ok(files)
}

/// A field over what the names of a series of experiments end with.
fn series(results: &Results, prefix: &str, field: &str) -> Vec<Line> {
    let experiments = results.series(prefix);
    let Some((first, _)) = experiments.first() else { return Vec::new() };
    let line = |contender: &Contender| {
        let point = |(name, x): &(String, f64)| Some((*x, results.median(name, contender, field)?));
        (contender.name.to_owned(), experiments.iter().filter_map(point).collect())
    };
    results.contenders(first).map(line).collect()
}

fn has_points(lines: &[Line]) -> bool {
    lines.iter().any(|(_, points)| !points.is_empty())
}

/// Least and most, with a little room.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| (least.min(v), most.max(v)));
    (least - 0.05, most + 0.05)
}

/// Lines on two logarithmic scales.
fn lines(
    file: &Path,
    title: &str,
    (x_label, x_text): (&str, &dyn Fn(f64) -> String),
    y_label: &str,
    lines: &[Line],
) -> Result<()> {
    let log = |(x, y): &(f64, f64)| (x.max(1e-9).log10(), y.max(1e-9).log10());
    let points = || lines.iter().flat_map(|(_, points)| points.iter().map(log));
    let (x, y) = (range(points().map(|(x, _)| x)), range(points().map(|(_, y)| y)));
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&|x| x_text(10_f64.powf(*x)))
        .y_label_formatter(&|y| short(10_f64.powf(*y)))
        .draw()
        .map_err(failed)?;
    for (i, (name, points)) in lines.iter().enumerate() {
        let style = Palette99::pick(i).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().map(log), style).point_size(3))
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    let legend = &mut chart.configure_series_labels();
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK).draw().map_err(failed)?;
    area.present().map_err(failed)
}

/// A bar for each value, with the value beside it.
fn bars(file: &Path, title: &str, values: &[(String, f64)]) -> Result<()> {
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(1e-9);
    let height = 70 + 44 * i32::try_from(values.len())?;
    let area = SVGBackend::new(file, (SIZE.0, height.unsigned_abs())).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let text = |size: i32| (FONT, size).into_font();
    area.draw_text(title, &text(20).into(), (14, 14)).map_err(failed)?;
    for (i, (name, value)) in values.iter().enumerate() {
        let top = 56 + 44 * i32::try_from(i)?;
        let width = (value / most * 560.0) as i32;
        let corners = [(170, top), (170 + width.max(1), top + 30)];
        area.draw(&Rectangle::new(corners, Palette99::pick(i).filled())).map_err(failed)?;
        area.draw_text(name, &text(15).into(), (14, top + 8)).map_err(failed)?;
        area.draw_text(&short(*value), &text(15).into(), (180 + width, top + 8)).map_err(failed)?;
    }
    area.present().map_err(failed)
}

/// Errors of plotters borrow what they are about.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}
