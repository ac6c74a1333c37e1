//! From an error to a sentence, a hint and an exit code (the codes of the README).

use std::error::Error;
use std::io::ErrorKind;
use std::process::ExitCode;

use super::printer::{Printer, count};
use crate::blobs::WriteError;
use crate::compose::export::ExportError;
use crate::compose::import::ImportError;
use crate::forms::FormError;
use crate::layout::LayoutError;
use crate::model::add::AddError;
use crate::model::hub::HubError;
use crate::model::inspect::InspectError;
use crate::model::lock::ModelLockError;
use crate::model::resolve::ResolveError as ModelResolveError;
use crate::model::source::ParseSourceError;
use crate::nix_store::NixError;
use crate::podman::artifacts::ArtifactsError;
use crate::podman::decide::DecideError;
use crate::podman::engine::EngineError;
use crate::podman::generations::GenerationError;
use crate::podman::load::LoadError;
use crate::podman::model::ModelError;
use crate::podman::places::PlacesError;
use crate::podman::pull::PullError;
use crate::podman::records::RecordsError;
use crate::registry::error::RegistryError;
use crate::registry::location::LocationError;
use crate::spec::SpecError;
use crate::upstream::fetch::FetchError;
use crate::upstream::file::LockError;
use crate::upstream::place::{ParsePlaceError, PlaceError};
use crate::upstream::resolve::ResolveError;
use crate::upstream::signature::SignatureError;
use crate::upstream::versions::VersionsError;

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

/// The network would be needed, and may not be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Offline(pub(super) String);

/// Upstream has something newer; each image was printed.
#[derive(Debug, thiserror::Error)]
#[error("{0} available")]
pub(super) struct Updates(pub(super) String);

/// Upstream has nothing newer, as far as is known; each image was printed.
#[derive(Debug, thiserror::Error)]
#[error("{gone} gone, {unknown} unknown")]
pub(super) struct Unknown {
    pub(super) gone: usize,
    pub(super) unknown: usize,
}

/// Something failed for some images; each was printed where it belongs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Several {
    message: String,
    code: u8,
}

/// What is said in several lines.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines.join("; "))]
pub(super) struct Lines {
    pub(super) lines: Vec<String>,
    pub(super) code: u8,
}

impl Several {
    pub(super) fn new(message: String, errors: &[&(dyn Error + 'static)]) -> Self {
        // The one that a second run will not mend by itself.
        let code = errors.iter().map(|error| code(*error)).max().unwrap_or(1);
        Self { message, code }
    }
}

/// Some images are not loaded.
pub(super) fn unloaded(errors: &[&LoadError]) -> Several {
    let errors: Vec<&(dyn Error + 'static)> = errors.iter().map(|&error| error as _).collect();
    Several::new(format!("{} could not be loaded", count(errors.len(), "image")), &errors)
}

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
    if let Some(Lines { lines, .. }) = error.downcast_ref() {
        lines.iter().enumerate().for_each(|(n, line)| printer.note([["windlass: ", ""][n.min(1)], line].concat()));
    } else {
        printer.note(format!("windlass: {message}"));
    }
    ExitCode::from(code(error.as_ref()))
}

/// The exit code of an error: the first of its causes that has one of its own.
fn code(error: &(dyn Error + 'static)) -> u8 {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = code_of(error) {
            return code;
        }
        cause = error.source();
    }
    1
}

fn code_of(error: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(Several { code, .. }) = error.downcast_ref() {
        return Some(*code);
    }
    if let Some(Lines { code, .. }) = error.downcast_ref() {
        return Some(*code);
    }
    if error.is::<Usage>()
        || error.is::<SpecError>()
        || matches!(error.downcast_ref(), Some(ModelError::Unknown { .. } | ModelError::SlotName(_)))
        || matches!(error.downcast_ref(), Some(GenerationError::Unknown { .. }))
        || matches!(error.downcast_ref(), Some(DecideError::SameName { .. }))
        || error.downcast_ref().is_some_and(|error| !matches!(error, ImportError::Read { .. }))
        || matches!(error.downcast_ref(), Some(ExportError::Archives { .. }))
        || error.is::<LocationError>()
        || error.is::<VersionsError>()
        || error.is::<ParsePlaceError>()
        || matches!(error.downcast_ref(), Some(FetchError::NoImage { .. } | FetchError::NoPlatform(_)))
        || matches!(error.downcast_ref(), Some(SignatureError::Key))
        || error.is::<ParseSourceError>()
        || matches!(error.downcast_ref(), Some(ModelLockError::Unknown { .. }))
        || matches!(error.downcast_ref(), Some(ModelResolveError::NoFileNamed(_) | ModelResolveError::NoFile { .. }))
        || matches!(error.downcast_ref(), Some(InspectError::NoModel { .. } | InspectError::SeveralModels { .. }))
    {
        return Some(2);
    }
    if error.is::<Updates>() {
        return Some(8);
    }
    if error.is::<Offline>() {
        return Some(6);
    }
    let full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let upstream = |error| matches!(error, &ResolveError::Size { .. } | &ResolveError::Conflict { .. });
    let layout = |error| {
        matches!(
            error,
            &LayoutError::Damaged { .. }
                | &LayoutError::Truncated { .. }
                | &LayoutError::Changed { .. }
                | &LayoutError::Unreadable { .. }
        )
    };
    let lied = |error| matches!(error, &PullError::NotThere { .. } | &PullError::OtherImage { .. });
    if error.is::<Unverified>()
        || error.downcast_ref().is_some_and(layout)
        || error.downcast_ref().is_some_and(InspectError::is_bad_file)
        || error.downcast_ref().is_some_and(lied)
        || error.downcast_ref().is_some_and(upstream)
        || error.downcast_ref().is_some_and(PlaceError::is_wrong_digest)
        || matches!(error.downcast_ref::<Box<PlaceError>>(), Some(error) if error.is_wrong_digest())
        || matches!(error.downcast_ref(), Some(RegistryError::WrongDigest { .. } | RegistryError::WrongSize { .. }))
        || error.downcast_ref().is_some_and(LockError::is_wrong_digest)
        || matches!(error.downcast_ref(), Some(SignatureError::Missing { .. } | SignatureError::Wrong { .. }))
        || matches!(error.downcast_ref(), Some(LoadError::NotThere { .. }))
        || matches!(error.downcast_ref(), Some(DecideError::Unreadable(_)))
        || matches!(error.downcast_ref(), Some(FormError::Changed { .. }))
        || matches!(error.downcast_ref(), Some(EngineError::Answer { .. }))
        || matches!(error.downcast_ref(), Some(AddError::Model { bad: true, .. }))
    {
        return Some(4);
    }
    if error.is::<NoSpace>()
        || matches!(error.downcast_ref(), Some(LoadError::NoSpace { .. }))
        || matches!(error.downcast_ref(), Some(FetchError::Nix(NixError::NoSpace { .. })))
        || matches!(error.downcast_ref(), Some(AddError::Nix(NixError::NoSpace { .. })))
        || matches!(error.downcast_ref(), Some(PullError::NoSpace { .. } | PullError::Full { .. }))
        || error.downcast_ref().is_some_and(|error: &std::io::Error| full(error.kind()))
    {
        return Some(5);
    }
    let environment = error.is::<Environment>()
        || error.downcast_ref().is_some_and(|error| !matches!(error, PlacesError::Stopped(_)))
        || error.is::<RecordsError>() && matches!(error.downcast_ref(), Some(RecordsError::Damaged { .. }))
        || matches!(error.downcast_ref(), Some(DecideError::NotReady(_)))
        || matches!(error.downcast_ref(), Some(NixError::Missing(_)))
        || matches!(error.downcast_ref(), Some(ArtifactsError::TooOld(_)))
        || matches!(error.downcast_ref(), Some(RegistryError::Unauthorized { .. } | RegistryError::Credentials(_)))
        || matches!(error.downcast_ref(), Some(HubError::Gated { .. }))
        || matches!(error.downcast_ref(), Some(AddError::Login { .. } | AddError::NoAddress { .. }))
        || matches!(error.downcast_ref(), Some(EngineError::Missing { .. }));
    environment.then_some(7)
}
