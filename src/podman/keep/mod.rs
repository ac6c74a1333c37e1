//! What is loaded: whether it is still what was built, who uses it, and what can go.
//!
//! [`verify`] compares records and trees with the recipes (`as_built`). [`usage`] says who uses which image; `gc_plan` decides with it what
//! stays and what goes, and [`gc`] removes that. `half_layers` finds what a load left in Podman without an image, `networks` those of the modules.

mod as_built;
pub(crate) mod gc;
mod gc_plan;
mod half_layers;
mod networks;
pub(crate) mod unload;
pub(crate) mod usage;
pub(crate) mod verify;
