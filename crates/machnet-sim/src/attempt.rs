//! Runs scenarios and says how they went.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::scenario::{Run, Scenario};
use crate::{Event, Recorder, write_pcapng};

/// Events that a traced world keeps: the newest.
const KEPT: usize = 100_000;

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes panics be kept instead of printed: an attempt's outcome has them.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| LAST_PANIC.set(panic.to_string())));
}

/// How a scenario went.
#[derive(Debug)]
pub struct Outcome {
    /// What the broken promise said.
    pub result: Result<(), String>,
    /// What the worlds left.
    pub recorder: Recorder,
}

impl Outcome {
    /// True if the scenario did what it must: kept its promise, or failed if that is known.
    #[must_use]
    pub const fn is_as_expected(&self, scenario: &Scenario) -> bool {
        self.result.is_err() == scenario.pending.is_some()
    }
}

/// Runs `scenario` with `seed`.
#[must_use]
pub fn attempt(scenario: &Scenario, seed: u64) -> Outcome {
    attempt_with(scenario, seed, Recorder::keeping(0))
}

fn attempt_with(scenario: &Scenario, seed: u64, recorder: Recorder) -> Outcome {
    let run = Run::new(seed, recorder.clone());
    let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&run))).map_err(|panic| {
        let kept = LAST_PANIC.take();
        let text = || panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".to_owned());
        if kept.is_empty() { text() } else { kept }
    });
    Outcome { result, recorder }
}

/// The files of a traced run.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Every event, one per line, in words.
    pub text: PathBuf,
    /// The same for Wireshark.
    pub capture: PathBuf,
}

/// Runs `scenario` with `seed` as [`attempt`] does, and writes what happened to `text` and, beside it, a pcapng.
///
/// # Errors
/// Of the files.
pub fn trace(scenario: &Scenario, seed: u64, text: &Path) -> io::Result<(Outcome, Traced)> {
    let outcome = attempt_with(scenario, seed, Recorder::keeping(KEPT));
    let events = outcome.recorder.take_events();
    if let Some(directory) = text.parent() {
        fs::create_dir_all(directory)?;
    }
    let traced = Traced { text: text.to_owned(), capture: text.with_extension("pcapng") };
    write_text(&traced.text, scenario, seed, &outcome, &events)?;
    let mut capture = BufWriter::new(File::create(&traced.capture)?);
    write_pcapng(&mut capture, &events)?;
    capture.flush()?;
    Ok((outcome, traced))
}

fn write_text(path: &Path, scenario: &Scenario, seed: u64, outcome: &Outcome, events: &[Event]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "scenario {} seed {seed}: {}", scenario.name, scenario.about)?;
    match &outcome.result {
        Ok(()) => writeln!(out, "passed")?,
        Err(error) => writeln!(out, "failed: {error}")?,
    }
    for (name, value) in outcome.recorder.figures() {
        writeln!(out, "{name}: {value}")?;
    }
    writeln!(out, "{}", outcome.recorder.take_post_mortem())?;
    for event in events {
        writeln!(out, "{event}")?;
    }
    out.flush()
}
