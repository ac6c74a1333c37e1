//! What Podman has on this host, and where. Nothing here changes an image.
//!
//! | question | module |
//! |---|---|
//! | where does Podman keep its things? | [`places`], which `ask`s Podman once and keeps the answer in `memory` |
//! | which settings files say so? | `conf_files`, [`storage_conf`] |
//! | what do Podman's records say? | [`records`], read under Podman's own [`lock`]s |
//! | is this image there? | [`snapshot`] |
//! | how is a layer's archive put together again? | [`tar_split`] |
//! | what does it take of the disk? | [`disk_use`] |
//! | who else uses it? | [`others`] (mounts, processes), `users` (their Podman) |
//! | how are Podman and skopeo called? | [`client`] |
//! | and CRI-O, which has such a store too? | [`crio`] |
//! | which of the two has this storage? | [`engine`] |

pub(crate) mod ask;
pub(crate) mod client;
pub(crate) mod conf_files;
pub(crate) mod crio;
pub(crate) mod disk_use;
pub(crate) mod engine;
pub(crate) mod lock;
mod memory;
pub(crate) mod others;
pub(crate) mod places;
pub(crate) mod records;
pub(crate) mod snapshot;
pub(crate) mod storage_conf;
pub(crate) mod tar_split;
pub(crate) mod users;
