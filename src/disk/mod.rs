//! How bytes get to the disk: files appear whole or not at all, and directories are handled through descriptors that follow no link.
//!
//! | question | module |
//! |---|---|
//! | how is something written? | `staging`: write beside, sync, rename ([`Staging`]) |
//! | how is a small file read or written? | [`files`] |
//! | how is a directory handled that others can write to? | [`beneath`], `walk` |
//! | how are links made where a mount is in the way? | [`view`] |
//! | how does one run at a time change a file that people commit? | [`lock_file`] |
//! | how does one windlass at a time change what is loaded? | `own_lock` |
//! | where does windlass keep what it notes of a graph root? | `own_folder` |
//! | how does another program read what lies on no disk? | [`served`]; `server` answers, in the words of `fuse` |
//! | where does it copy that to, without a place for it? | `scratch` |
//! | how is a file read that was cut? | [`parts`] |
//! | how is a file read once for several consumers? | [`pipe`] |
//! | how are several streams hashed at once? | [`pairs`] |
//! | how does a long job say where it is, and how is it stopped? | [`progress`] |

pub(crate) mod beneath;
pub(crate) mod bounded;
mod error;
pub(crate) mod files;
mod fuse;
pub(crate) mod lock_file;
pub(crate) mod own_folder;
pub(crate) mod own_lock;
pub(crate) mod pairs;
pub(crate) mod parts;
pub(crate) mod pieces;
pub(crate) mod pipe;
pub(crate) mod progress;
mod scratch;
pub(crate) mod served;
mod server;
pub(crate) mod size;
mod staging;
pub(crate) mod view;
pub(crate) mod walk;
pub(crate) mod write_back;

pub(crate) use self::error::AtPath;
pub use self::error::WriteError;
pub(crate) use self::staging::leftovers_in;
pub(crate) use self::staging::{Staging, leftovers};
