//! From an error to a sentence, a hint and an exit code (the codes of the README).

use std::io::ErrorKind;
use std::process::ExitCode;

use super::printer::Printer;
use crate::blobs::WriteError;
use crate::layout::LayoutError;
use crate::spec::SpecError;

/// The environment is wrong: something windlass needs is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Environment(pub(super) String);

/// The arguments do not fit each other.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Less space than what would be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoSpace(pub(super) String);

/// Some checks failed; each was printed where it belongs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unverified(pub(super) String);

/// Prints the error and gives the exit code that scripts know it by.
pub(super) fn report(error: &anyhow::Error, printer: &Printer) -> ExitCode {
    let io =
        |kind| error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == kind));
    if io(ErrorKind::BrokenPipe) && !error.chain().any(|cause| cause.is::<WriteError>()) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    let mut message = String::new();
    for cause in error.chain() {
        // Errors that are transparent, or that quote their source, would say it twice.
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = if message.is_empty() { text } else { format!("{message}: {text}") };
        }
    }
    if io(ErrorKind::Interrupted) {
        // What was being done at that moment says nothing.
        message = error.root_cause().to_string();
    }
    printer.note(format!("windlass: {message}"));
    let is = |check: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(check);
    let damaged = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Unverified>()
            || matches!(
                cause.downcast_ref::<LayoutError>(),
                Some(LayoutError::Damaged { .. } | LayoutError::Truncated { .. } | LayoutError::Changed { .. })
            )
    };
    ExitCode::from(if is(|cause| cause.is::<Usage>() || cause.is::<SpecError>()) {
        2
    } else if error.chain().any(damaged) {
        4
    } else if io(ErrorKind::StorageFull) || io(ErrorKind::QuotaExceeded) || is(|cause| cause.is::<NoSpace>()) {
        5
    } else if is(|cause| cause.is::<Environment>()) {
        7
    } else {
        1
    })
}
