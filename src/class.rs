//! What kind of failure an error is, and the exit code that scripts know it by.
//!
//! Every error says its class itself, by a `match` that names each of its variants: a new variant does not compile without one,
//! and the command line takes no error that has none.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::string::FromUtf8Error;
use std::sync::Arc;

/// The kinds of failure, in the order of their exit codes (`docs/formats.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The reader of the output has seen enough and closed it: not a failure.
    ReaderGone,
    /// It failed for a reason that has no code of its own.
    Failed,
    /// The user stopped it.
    Stopped,
    /// An argument or a spec is wrong.
    Usage,
    /// Bytes, a digest or a signature are not what they should be.
    Unverified,
    /// There is not enough space.
    NoSpace,
    /// Something would have to be fetched, and may not be.
    Offline,
    /// The environment is wrong: something that windlass needs is not there.
    Environment,
    /// Upstream has something newer.
    Updates,
}

impl Class {
    /// The exit code.
    #[must_use]
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Failed | Self::Stopped => 1,
            Self::Usage => 2,
            Self::Unverified => 4,
            Self::NoSpace => 5,
            Self::Offline => 6,
            Self::Environment => 7,
            Self::Updates => 8,
        }
    }
}

/// An error that says what kind of failure it is.
pub trait Classified: Error {
    /// The class: its own, or that of its cause.
    fn class(&self) -> Class;

    /// What to type next, where one command helps: it has a line of its own after the message, and a key of its own in JSON.
    ///
    /// An error that passes on the class of a cause with a hint passes on the hint too (`tests/it/architecture.rs`).
    fn hint(&self) -> Option<String> {
        None
    }
}

impl<E: Classified + ?Sized> Classified for Box<E>
where
    Self: Error,
{
    fn class(&self) -> Class {
        (**self).class()
    }

    fn hint(&self) -> Option<String> {
        (**self).hint()
    }
}

impl<E: Classified + ?Sized> Classified for Arc<E>
where
    Self: Error,
{
    fn class(&self) -> Class {
        (**self).class()
    }

    fn hint(&self) -> Option<String> {
        (**self).hint()
    }
}

/// The class of what the system says.
const fn of(kind: ErrorKind) -> Class {
    match kind {
        ErrorKind::BrokenPipe => Class::ReaderGone,
        ErrorKind::Interrupted => Class::Stopped,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Class::NoSpace,
        // The system has kinds without number.
        _ => Class::Failed,
    }
}

impl Classified for io::Error {
    fn class(&self) -> Class {
        of(self.kind())
    }
}

impl Classified for rustix::io::Errno {
    fn class(&self) -> Class {
        of(self.kind())
    }
}

impl Classified for FromUtf8Error {
    fn class(&self) -> Class {
        Class::Failed
    }
}

impl Classified for serde_json::Error {
    fn class(&self) -> Class {
        self.io_error_kind().map_or(Class::Failed, of)
    }
}
