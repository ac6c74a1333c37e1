//! containers-storage as Podman sees it: what is there, and how images get in without a registry.
//!
//! Measured on Podman 4.3.1 and 5.4.2 (containers/storage 1.43 and 1.57), and read in their sources.

pub mod engine;
pub mod places;
pub mod pull;
