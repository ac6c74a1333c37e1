//! Why images are not in a daemon.

use std::io;

use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::engine::generations::GenerationError;
use crate::engine::kind::EngineKind;
use crate::engine::target::DecideError;
use crate::image::layout::LayoutError;

/// Why a daemon cannot do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// There is no way to load them.
    #[error(transparent)]
    Decide(#[from] DecideError),
    /// The generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// What windlass notes of the daemon.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An image that cannot be read, or whose bytes are not what they should be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It does not answer.
    #[error("{engine} does not answer at {endpoint}: {why}")]
    Unreachable {
        /// Which one.
        engine: EngineKind,
        /// Its socket.
        endpoint: String,
        /// What the system said.
        why: String,
        /// What to do.
        hint: String,
    },
    /// It answers, and refuses.
    #[error("{engine} could not {action}: {said}")]
    Refused {
        /// Which one.
        engine: EngineKind,
        /// What it was asked for: a verb and its object.
        action: String,
        /// What it said.
        said: String,
    },
    /// It answers, and not what was asked for.
    #[error("{engine} was asked to {action}, and answered what windlass does not understand: {why}")]
    Answer {
        /// Which one.
        engine: EngineKind,
        /// What it was asked for: a verb and its object.
        action: String,
        /// What is wrong with it.
        why: String,
    },
    /// It does not have what was loaded.
    #[error("{reference} was loaded and taken away again, because {engine} {found}")]
    NotThere {
        /// Which one.
        engine: EngineKind,
        /// Name and tag of the image.
        reference: String,
        /// What it has instead.
        found: String,
    },
    /// Containers use what was to go.
    #[error("{}; nothing was changed", .0.join("; "))]
    InUse(Vec<String>),
    /// It cannot do that at all.
    #[error("{engine} cannot {action}")]
    Unsupported {
        /// Which one.
        engine: EngineKind,
        /// What it was asked for: a verb and its object.
        action: String,
        /// Who can.
        hint: String,
    },
    /// The job was stopped.
    #[error(transparent)]
    Stopped(io::Error),
}

impl Classified for DaemonError {
    fn class(&self) -> Class {
        match self {
            Self::Decide(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Stopped(error) => error.class(),
            Self::Unreachable { .. } | Self::Answer { .. } => Class::Environment,
            Self::Refused { said, .. } if said.contains("no space left on device") => Class::NoSpace,
            Self::Refused { .. } | Self::InUse(_) => Class::Failed,
            Self::NotThere { .. } => Class::Unverified,
            Self::Unsupported { .. } => Class::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Decide(error) => error.hint(),
            Self::Unreachable { hint, .. } | Self::Unsupported { hint, .. } => Some(hint.clone()),
            _ => None,
        }
    }
}
