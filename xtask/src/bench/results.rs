//! All reports of a run, and what they say together.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::contenders::Contender;
use super::matrix::Experiment;
use super::rows::Row;
use crate::run::interrupted;

/// Everything measured so far.
pub(crate) struct Results {
    commit: String,
    repetitions: u32,
    millis: u64,
    cells: Vec<Cell>,
    left_out: Vec<String>,
    load_before: String,
}

/// One contender in one experiment, with all repetitions.
struct Cell {
    experiment: String,
    contender: Contender,
    reports: Vec<Value>,
    failures: Vec<String>,
}

/// A median, and the least and the most of the repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, least, most })
    }
}

impl Results {
    pub(crate) fn new(commit: String, repetitions: u32, millis: u64) -> Self {
        Self { commit, repetitions, millis, cells: Vec::new(), left_out: Vec::new(), load_before: load() }
    }

    /// Takes what came of a measurement; an error only if the run was interrupted.
    pub(crate) fn add(&mut self, experiment: &Experiment, contender: &Contender, outcome: Result<Value>) -> Result<()> {
        let cell = self.cells.iter().position(|cell| cell.is(&experiment.name, contender));
        let cell = cell.unwrap_or_else(|| {
            let (experiment, contender) = (experiment.name.clone(), *contender);
            self.cells.push(Cell { experiment, contender, reports: Vec::new(), failures: Vec::new() });
            self.cells.len() - 1
        });
        match outcome {
            Ok(report) => self.cells[cell].reports.push(report),
            Err(error) if interrupted() => return Err(error),
            Err(error) => {
                println!("  {:<18} failed: {error:#}", contender.name);
                self.cells[cell].failures.push(format!("{error:#}"));
            }
        }
        Ok(())
    }

    pub(crate) fn left_out(&mut self, experiment: &str) {
        self.left_out.push(experiment.to_owned());
    }

    /// A number of the reports; `field` as in a JSON pointer without its first slash.
    pub(crate) fn spread(&self, experiment: &str, contender: &Contender, field: &str) -> Option<Spread> {
        let cell = self.cells.iter().find(|cell| cell.is(experiment, contender))?;
        let pointer = format!("/{field}");
        Spread::of(cell.reports.iter().filter_map(|report| report.pointer(&pointer)?.as_f64()).collect())
    }

    pub(crate) fn median(&self, experiment: &str, contender: &Contender, field: &str) -> Option<f64> {
        self.spread(experiment, contender, field).map(|spread| spread.median)
    }

    /// Who was measured in an experiment.
    pub(crate) fn contenders(&self, experiment: &str) -> impl Iterator<Item = &Contender> {
        self.cells.iter().filter(move |cell| cell.experiment == experiment).map(|cell| &cell.contender)
    }

    /// The names of experiments that begin with `prefix`, with what follows it.
    pub(crate) fn series(&self, prefix: &str) -> Vec<(String, f64)> {
        let mut series: Vec<(String, f64)> = Vec::new();
        for cell in &self.cells {
            let value = cell.experiment.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
            if let Some(value) = value.filter(|_| series.iter().all(|(name, _)| *name != cell.experiment)) {
                series.push((cell.experiment.clone(), value));
            }
        }
        series
    }

    /// Median percentiles of latency, of the percentiles that all repetitions have.
    pub(crate) fn percentiles(&self, experiment: &str, contender: &Contender) -> Vec<(f64, f64)> {
        let Some(cell) = self.cells.iter().find(|cell| cell.is(experiment, contender)) else { return Vec::new() };
        let curves: Vec<Vec<(f64, f64)>> = (cell.reports.iter())
            .filter_map(|report| serde_json::from_value(report["percentiles"].clone()).ok())
            .collect();
        let points = curves.first().map_or(0, Vec::len);
        let at = |i: usize| {
            let median = Spread::of(curves.iter().filter_map(|curve| Some(curve.get(i)?.1)).collect())?.median;
            Some((curves.first()?.get(i)?.0, median))
        };
        (0..points).filter_map(at).collect()
    }

    /// A line for each contender: medians, and in brackets the least and the most.
    pub(crate) fn print(&self, experiment: &Experiment) {
        for contender in &experiment.contenders {
            let shown = experiment.shows.iter().filter_map(|(field, name)| {
                let Spread { median, least, most } = self.spread(&experiment.name, contender, field)?;
                Some(format!("{name} {} [{} {}]", short(median), short(least), short(most)))
            });
            let shown = shown.collect::<Vec<_>>().join("   ");
            if !shown.is_empty() {
                println!("  {:<18} {shown}", contender.name);
            }
        }
    }

    /// Writes everything to a file of its own, whose name begins with `name`.
    pub(crate) fn write(&self, folder: &Path, name: &str, rows: &[Row]) -> Result<PathBuf> {
        let cells = self.cells.iter().map(|cell| {
            json!({
                "experiment": cell.experiment,
                "contender": cell.contender.name,
                "scheme": cell.contender.scheme,
                "options": cell.contender.options,
                "client_core": cell.contender.cores().0,
                "server_core": cell.contender.cores().1,
                "failures": cell.failures,
                "reports": cell.reports,
            })
        });
        let at = self.cells.iter().flat_map(|cell| &cell.reports).filter_map(|report| report["at"].as_u64()).max();
        let all = json!({
            "commit": self.commit,
            "at": at,
            "repetitions": self.repetitions,
            "millis": self.millis,
            "load_before": self.load_before,
            "load_after": load(),
            "left_out": self.left_out,
            "rows": rows,
            "cells": cells.collect::<Vec<_>>(),
        });
        let file = folder.join(format!("{name}-{}.json", at.unwrap_or(0)));
        fs::write(&file, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// What to think of the numbers.
    pub(crate) fn noise(&self) -> String {
        format!(
            "commit {}; load of 1, 5, 15 minutes: before {}, after {}. Numbers of a machine that did other things are noise: \
             repeat on a quiet one, and compare within one run only.",
            self.commit,
            self.load_before,
            load()
        )
    }
}

impl Cell {
    fn is(&self, experiment: &str, contender: &Contender) -> bool {
        self.experiment == experiment && self.contender.name == contender.name
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Three digits or so.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
    }
}
