//! From an error to a sentence and an exit code.
//!
//! A verb fails with a [`Failure`]. Each error that says its [`Class`] becomes one; an error without a class does not.

use std::error::Error;
use std::fmt::{self, Display};
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;

use super::printer::{Printer, count, note};
use crate::class::{Class, Classified};

/// What a verb has, or why it failed.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a verb failed.
#[derive(Debug)]
pub(super) struct Failure {
    class: Class,
    /// The message. Most have one line.
    lines: Vec<String>,
    /// What to type next.
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(class: Class, message: impl Into<String>) -> Self {
        Self::of_lines(class, vec![message.into()])
    }

    /// One that is said in several lines.
    pub(super) const fn of_lines(class: Class, lines: Vec<String>) -> Self {
        Self { class, lines, hint: None }
    }

    /// The same, with what to type next.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same, with this to type next, or nothing.
    pub(super) fn hinting(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// What kind of failure it is.
    pub(super) const fn class(&self) -> Class {
        self.class
    }

    /// The same, with what it happened to before it.
    fn at(mut self, place: &str) -> Self {
        // What was being done when the user stopped it says nothing.
        if self.class != Class::Stopped {
            self.lines[0] = format!("{place}: {}", self.lines[0]);
        }
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

impl<E: Classified> From<E> for Failure {
    fn from(error: E) -> Self {
        let (class, hint) = (error.class(), error.hint());
        let mut cause: &dyn Error = &error;
        while let Some(next) = cause.source().filter(|_| class == Class::Stopped) {
            cause = next;
        }
        // Every error quotes its cause.
        Self { hint, ..Self::new(class, cause.to_string()) }
    }
}

/// Failed, for a reason that has no code of its own.
pub(super) fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Class::Failed, message)
}

/// The arguments do not fit each other.
pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Class::Usage, message)
}

/// Some checks failed; each was printed where it belongs.
pub(super) fn unverified(message: impl Into<String>) -> Failure {
    Failure::new(Class::Unverified, message)
}

/// Less space than what would be written.
pub(super) fn no_space(message: impl Into<String>) -> Failure {
    Failure::new(Class::NoSpace, message)
}

/// The network would be needed, and may not be used.
pub(super) fn offline(message: impl Into<String>) -> Failure {
    Failure::new(Class::Offline, message)
}

/// The environment is wrong: something windlass needs is not there.
pub(super) fn environment(message: impl Into<String>) -> Failure {
    Failure::new(Class::Environment, message)
}

/// Some things failed, and each was printed where it belongs.
pub(super) fn several(message: String, classes: impl IntoIterator<Item = Class>) -> Failure {
    // The one that a second run will not mend by itself.
    Failure::new(classes.into_iter().fold(Class::Failed, Class::max), message)
}

/// There is no generation yet.
pub(super) fn nothing_loaded() -> Failure {
    usage("nothing was loaded yet").hint("`windlass load` loads a stack")
}

/// An error and its hint in one line, for where it is one of several.
pub(super) fn sentence(error: &impl Classified) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"))
}

/// Some images are not loaded.
pub(super) fn unloaded<E: Classified>(errors: &[&E]) -> Failure {
    let message = format!("{} could not be loaded", count(errors.len(), "image"));
    several(message, errors.iter().map(|error| error.class()))
}

/// Says what an error is about.
pub(super) trait Context<T> {
    /// `place` comes before the message, and a colon between them.
    fn context(self, place: impl Display) -> Result<T>;

    /// The same, for a place that takes work to say.
    fn with_context<P: Display>(self, place: impl FnOnce() -> P) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, place: impl Display) -> Result<T> {
        self.with_context(|| place)
    }

    fn with_context<P: Display>(self, place: impl FnOnce() -> P) -> Result<T> {
        self.map_err(|error| error.into().at(&place().to_string()))
    }
}

/// A failure, for JSON.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ErrorReport {
    error: ErrorBody,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ErrorBody {
    message: String,
    /// What to type next, where one command helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// `failed`, `stopped`, `usage`, `unverified`, `no-space`, `offline`, `environment` or `updates`.
    class: &'static str,
    /// The exit code.
    code: u8,
}

const fn word(class: Class) -> &'static str {
    match class {
        Class::ReaderGone => "reader-gone",
        Class::Failed => "failed",
        Class::Stopped => "stopped",
        Class::Usage => "usage",
        Class::Unverified => "unverified",
        Class::NoSpace => "no-space",
        Class::Offline => "offline",
        Class::Environment => "environment",
        Class::Updates => "updates",
    }
}

/// What clap says of a command line, in one line.
pub(super) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Prints the failure and gives the exit code that scripts know it by. With `--json` it is an object on standard output too,
/// unless a result is there already.
pub(super) fn report(failure: &Failure, printer: &Printer) -> ExitCode {
    if failure.class != Class::ReaderGone {
        let (first, others) = failure.lines.split_first().map_or(("", &[][..]), |(first, others)| (first, others));
        note(format!("windlass: {first}"));
        others.iter().for_each(note);
        failure.hint.iter().for_each(|hint| note(format!("hint: {hint}")));
        if printer.json() && !printer.has_printed() {
            let (message, class, code) = (failure.to_string(), word(failure.class), failure.class.code());
            let hint = failure.hint.clone();
            let value = ErrorReport { error: ErrorBody { message, hint, class, code } };
            // What cannot be written is told by the exit code all the same.
            drop(printer.value(&value).and_then(|()| printer.flush()));
        }
    }
    ExitCode::from(failure.class.code())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::disk::WriteError;
    use crate::image::layout::LayoutError;
    use crate::podman::load::LoadError;
    use crate::podman::load::pull::PullError;

    fn written(kind: io::ErrorKind) -> WriteError {
        WriteError { action: "write", path: "/f".into(), source: io::Error::new(kind, "so said the system") }
    }

    #[test]
    fn the_class_is_that_of_the_innermost_cause_that_has_one() {
        let kind = |kind| Failure::from(LoadError::Pull(PullError::Layout(LayoutError::Write(written(kind)))));
        for (given, class, code) in [
            (io::ErrorKind::StorageFull, Class::NoSpace, 5),
            (io::ErrorKind::QuotaExceeded, Class::NoSpace, 5),
            (io::ErrorKind::PermissionDenied, Class::Failed, 1),
            // A pipe of ours, and not of who reads what is printed.
            (io::ErrorKind::BrokenPipe, Class::Failed, 1),
        ] {
            let failure = kind(given);
            assert_eq!((failure.class, failure.class.code()), (class, code));
            assert_eq!(failure.to_string(), "write /f: so said the system");
        }
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).class.code(), 0);
    }

    #[test]
    fn what_it_happened_to_comes_first_unless_the_user_stopped_it() {
        let context = |kind| Err::<(), _>(written(kind)).context(Path::new("a").display()).unwrap_err().to_string();
        assert_eq!(context(io::ErrorKind::NotFound), "a: write /f: so said the system");
        assert_eq!(context(io::ErrorKind::Interrupted), "so said the system");
    }

    #[test]
    fn of_several_the_one_counts_that_a_second_run_does_not_mend() {
        let code = |classes: &[Class]| several("3 images".to_owned(), classes.iter().copied()).class.code();
        assert_eq!(code(&[]), 1);
        assert_eq!(code(&[Class::ReaderGone, Class::Failed]), 1);
        assert_eq!(code(&[Class::Failed, Class::Environment, Class::Unverified]), 7);
    }
}
