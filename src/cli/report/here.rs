//! What this host has: what `windlass status`, `generations` and `gc` say of it.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::cli::failure::Result;
use crate::cli::status::{self, StatusReport};
use crate::cli::{gc, generations};
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::podman::keep::gc::{KEEP, Removal};
use crate::podman::load::decide::PodmanHost;

/// So many ways to clean up are compared.
const COMPARED: usize = 8;

#[derive(Debug, Serialize)]
pub(super) struct ReportHost {
    status: StatusReport,
    generations: Value,
    /// What a clean-up does unless told otherwise.
    gc: ReportFreed,
    /// What one does that keeps so many generations.
    frees: Vec<ReportFreed>,
}

#[derive(Debug, Serialize)]
struct ReportFreed {
    /// So many of the last generations stay.
    keep: usize,
    bytes: u64,
    /// Bytes that Nix may collect besides.
    collectable: u64,
    /// What goes.
    names: Vec<String>,
}

pub(super) fn here(path: &Path, host: &PodmanHost, progress: &Progress) -> Result<ReportHost> {
    let status = status::of_paths(&[path.to_owned()], host, progress)?;
    let all = host.generations().all()?;
    let generations = serde_json::to_value(generations::rows(host, &all, progress)?)?;
    let freed = |keep: usize| -> Result<ReportFreed> {
        let plan = host.plan_gc(&gc::usual(keep), progress)?;
        let sum = |of: fn(&Removal) -> u64| plan.remove.iter().map(of).sum();
        Ok(ReportFreed {
            keep,
            bytes: sum(|removal| removal.bytes),
            collectable: sum(|removal| removal.collectable),
            names: plan.remove.iter().map(|removal| removal.name.clone()).collect(),
        })
    };
    let frees = (1..=all.len().clamp(1, COMPARED)).map(freed).collect::<Result<_>>()?;
    Ok(ReportHost { status, generations, gc: freed(KEEP)?, frees })
}
