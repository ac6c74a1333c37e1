//! containers-storage as Podman sees it: what is there, and how images get in without a registry.
//!
//! Measured on Podman 4.3.1, 5.4.2, 5.8.6 and 6.1.1 (containers/storage 1.43 to 1.65), and read in their sources.
//!
//! | wing | question | uses |
//! |---|---|---|
//! | `storage` | what does Podman have, and where? | |
//! | `linked` | how do layers become trees of hard links, in a store of our own? | `storage` |
//! | `load` | what must be loaded, how, and what was loaded when? | `linked` `storage` |
//! | `slots` | which model does a service have? | `linked` `load` `storage` |
//! | `keep` | is it still what was built, and what can go? | `linked` `load` `slots` `storage` |
//! | `doctor` | is the host ready? | `linked` `load` `storage` |

pub(crate) mod doctor;
pub(crate) mod keep;
pub(crate) mod linked;
pub(crate) mod load;
pub(crate) mod slots;
pub(crate) mod storage;
