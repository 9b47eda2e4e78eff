//! A TOML file, read with a finger on the line: every error says where it is, and none hides the next.

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.reason)
    }
}

/// The text, and what was found wrong with it so far.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, mistakes: Vec::new() }
    }

    /// The whole file as a section. What is no TOML is noted.
    pub(super) fn parse(&mut self) -> Option<Section<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.note(error.span().unwrap_or_default(), error.message().to_owned());
        }
        errors.is_empty().then(|| Section { name: String::new(), span: 0..0, table: table.into_inner(), whole: true })
    }

    pub(super) fn note(&mut self, at: Range<usize>, reason: String) {
        let before = self.text.get(..at.start.min(self.text.len())).unwrap_or_default();
        self.mistakes.push(Mistake { line: 1 + before.matches('\n').count(), reason });
    }

    pub(super) fn finish(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        self.mistakes
    }
}

/// A table of the file. What nobody [took](Section::take) of it is unknown, and a mistake.
#[derive(Debug)]
pub(super) struct Section<'t> {
    name: String,
    span: Range<usize>,
    table: DeTable<'t>,
    /// Nothing of it was wrong so far.
    whole: bool,
}

impl<'t> Section<'t> {
    /// Where it stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// True if nothing of it was wrong so far.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    fn remove(&mut self, key: &str) -> Option<(Range<usize>, DeValue<'t>)> {
        let (_, value) = self.table.remove_entry(key)?;
        Some((value.span(), value.into_inner()))
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of `key` as `read` understands it; `None` if it is not there, or wrong, which is noted.
    pub(super) fn take<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let (span, value) = self.remove(key)?;
        match read(&value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.whole = false;
                let found = shown(&value);
                reader.note(span, format!("{} = {found}: {reason}", self.full(key)));
                None
            }
        }
    }

    /// The table `key`; an empty one if it is not there.
    pub(super) fn section(&mut self, reader: &mut Reader<'_>, key: &str) -> Self {
        let name = self.full(key);
        let (span, table) = match self.remove(key) {
            Some((span, DeValue::Table(table))) => (span, table),
            Some((span, other)) => {
                reader.note(span.clone(), format!("{name} is {}; wanted is a table, [{name}]", other.type_str()));
                (span, DeTable::new())
            }
            None => (0..0, DeTable::new()),
        };
        Self { name, span, table, whole: true }
    }

    /// The tables `[[key]]`.
    pub(super) fn sections(&mut self, reader: &mut Reader<'_>, key: &str) -> Vec<Self> {
        let name = self.full(key);
        let wanted = format!("wanted are tables, [[{name}]]");
        match self.remove(key) {
            None => Vec::new(),
            Some((_, DeValue::Array(array))) => {
                let mut sections = Vec::new();
                for value in array {
                    let span = value.span();
                    match value.into_inner() {
                        DeValue::Table(table) => sections.push(Self { name: name.clone(), span, table, whole: true }),
                        other => reader.note(span, format!("{name} contains a {}; {wanted}", other.type_str())),
                    }
                }
                sections
            }
            Some((span, other)) => {
                self.whole = false;
                reader.note(span, format!("{name} is a {}; {wanted}", other.type_str()));
                Vec::new()
            }
        }
    }

    /// All was taken: what is left is unknown. `known` is what could have been there.
    pub(super) fn finish(self, reader: &mut Reader<'_>, known: &[&str]) {
        for key in self.table.keys() {
            let name = self.full(key.get_ref().as_ref());
            reader.note(key.span(), format!("unknown key {name:?}; known here are {}", known.join(", ")));
        }
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        other => format!("({})", other.type_str()),
    }
}
