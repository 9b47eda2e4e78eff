//! Runs checks as tests, and shows what they found: driver × check.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::bench::Stop;
use crate::{CHECKS, Check, Subject};

#[derive(Clone)]
enum Cell {
    Passed,
    NotApplicable(&'static str),
    Failed,
}

type Cells = Arc<Mutex<BTreeMap<(usize, usize), Cell>>>;

/// Runs every check on every subject, as the arguments of the command line say (those of `cargo test`; tests are called
/// `subject::check`), and prints the table.
#[must_use]
#[expect(clippy::print_stdout, reason = "a table is for whoever runs the tests")]
pub fn run(subjects: Vec<Arc<dyn Subject>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Devices of one process come and go one at a time: DPDK's memif frees what its own thread still uses if others do meanwhile.
    arguments.test_threads.get_or_insert(1);
    let cells = Cells::default();
    let mut trials = Vec::new();
    for (column, subject) in subjects.iter().enumerate() {
        for (row, check) in CHECKS.iter().enumerate() {
            let (subject, cells) = (Arc::clone(subject), Arc::clone(&cells));
            let name = format!("{}::{}", subject.name(), check.name);
            trials.push(Trial::ignorable_test(name, move || one(&*subject, check, &cells, (row, column))));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{}", table(&subjects, &cells));
    }
    conclusion.exit_code()
}

fn one(subject: &dyn Subject, check: &Check, cells: &Cells, at: (usize, usize)) -> Result<Completion, Failed> {
    let note = |cell| {
        cells.lock().unwrap_or_else(PoisonError::into_inner).insert(at, cell);
    };
    // A check that panics has failed, too.
    note(Cell::Failed);
    match (check.run)(subject) {
        Ok(()) => {
            note(Cell::Passed);
            Ok(Completion::Completed)
        }
        // Not passed: there is nothing that could have failed.
        Err(Stop::NotApplicable(why)) => {
            note(Cell::NotApplicable(why));
            Ok(Completion::ignored_with(why))
        }
        Err(Stop::Wrong(why)) => Err(format!("{}: {}\n{why}", subject.name(), check.about).into()),
    }
}

fn table(subjects: &[Arc<dyn Subject>], cells: &BTreeMap<(usize, usize), Cell>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut notes: Vec<&str> = Vec::new();
    let _ = write!(text, "{:<16}", "");
    for subject in subjects {
        let _ = write!(text, "{:>12}", subject.name());
    }
    for (row, check) in CHECKS.iter().enumerate() {
        let _ = write!(text, "\n{:<16}", check.name);
        for column in 0..subjects.len() {
            let said = match cells.get(&(row, column)) {
                None => String::new(),
                Some(Cell::Passed) => "ok".to_owned(),
                Some(Cell::Failed) => "FAILED".to_owned(),
                Some(Cell::NotApplicable(why)) => {
                    let at = notes.iter().position(|note| note == why).unwrap_or_else(|| {
                        notes.push(why);
                        notes.len() - 1
                    });
                    format!("– ({})", at + 1)
                }
            };
            let _ = write!(text, "{said:>12}");
        }
    }
    text.push('\n');
    for (i, note) in notes.iter().enumerate() {
        let _ = write!(text, "\n– ({}) not applicable: {note}", i + 1);
    }
    let count = |what: fn(&Cell) -> bool| cells.values().filter(|cell| what(cell)).count();
    let _ = write!(
        text,
        "\n{} passed, {} failed, {} not applicable\n",
        count(|cell| matches!(cell, Cell::Passed)),
        count(|cell| matches!(cell, Cell::Failed)),
        count(|cell| matches!(cell, Cell::NotApplicable(_))),
    );
    text
}
