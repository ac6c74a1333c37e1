//! containers-storage as Podman sees it: what is there, and how images get in without a registry.
//!
//! Measured on Podman 4.3.1, 5.4.2, 5.8.6 and 6.1.1 (containers/storage 1.43 to 1.65), and read in their sources.
//!
//! | question | modules |
//! |---|---|
//! | where does Podman keep its things, and is the host ready? | [`places`] `ask` `memory`, `conf_files` [`storage_conf`], [`doctor`] `host` `mend` `naming` `users` |
//! | what is there? | [`lock`] [`records`] [`survey`] [`shares`] |
//! | what must be loaded, and how? | [`decide`] [`load`] |
//! | linked: trees of hard links in a store of our own | [`tree`] [`unpack`] `members` `placement` `rooted` `twin` [`tar_split`] [`link`], [`image_store`] [`linked`] `renew` `torn` |
//! | pulled: handed to Podman | [`engine`] [`pull`] |
//! | what Podman does not confirm, or cannot read, is taken away | `confirm` `undo` [`unreadable`] |
//! | what was loaded, and what goes? | [`generations`] [`rollback`], [`usage`] [`gc`] `gc_plan` |
//! | is it still what was built? | [`verify`] [`mod@check`] |
//! | which model does a service have? | [`weights`] [`model`] [`service`] [`switch`] |
//! | models that are no images | [`artifacts`] |

pub mod artifacts;
mod as_built;
mod ask;
pub mod check;
mod conf_files;
mod confirm;
pub mod decide;
pub mod doctor;
pub mod engine;
pub mod gc;
mod gc_plan;
pub mod generations;
mod host;
pub mod image_store;
pub mod link;
pub mod linked;
pub mod load;
pub mod lock;
mod memory;
mod mend;
pub mod model;
mod naming;
mod placement;
pub mod places;
pub mod pull;
pub mod records;
mod renew;
pub mod rollback;
mod rooted;
pub mod service;
pub mod shares;
pub mod sharing;
pub mod storage_conf;
pub mod survey;
pub mod switch;
pub mod tar_split;
mod torn;
pub mod tree;
mod twin;
mod undo;
pub mod unpack;
pub mod unreadable;
pub mod usage;
mod users;
pub mod verify;
pub mod weights;
