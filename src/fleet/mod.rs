//! What a history of updates costs a fleet of hosts, for several ways to make layers and to hand them out.
//!
//! | file | is about |
//! |---|---|
//! | `built` | images of a history that windlass built |
//! | `history` | the versions of images, and the hosts that get them |
//! | `measure` | sizes that it lacks, of store paths that are on this host |
//! | `schemes` | the layers that each tool makes of an image |
//! | `simulation` | which bytes each host receives and writes |
//!
//! Sizes come with the history, unless they are asked to be measured. Reproducibility: a pure function of the history, the number of hosts,
//! the seed and the share of updates that hosts leave out.

mod built;
pub(crate) mod history;
pub(crate) mod measure;
pub(crate) mod schemes;
pub(crate) mod simulation;
