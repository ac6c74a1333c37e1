//! `windlass simulate`
//!
//! | file | is about |
//! |---|---|
//! | `picture` | the table as a picture |

mod picture;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::failure::{Result, usage};
use super::output::{Destination, is_stream};
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::fleet::history::FleetHistory;
use crate::fleet::schemes::LayerScheme;
use crate::fleet::simulation::{FleetBytes, FleetCost, FleetRequest, FleetRoute, shares, simulate};

const EXAMPLE: &str = "Examples:
  windlass simulate --history history.json
  windlass simulate --history history.json --hosts 1000 --skips 20 --output fleet.svg
  windlass simulate --history history.json --measure        sizes of the store paths that are on this host
  windlass schema simulate --history                        the form of the file";

/// Count the bytes that a fleet of hosts receives and writes for a history of updates.
///
/// The history is a file: versions of a set of images, each with the store paths that are in it (as `nix path-info --json
/// --recursive` prints them) or with the image directories and lean stacks that `windlass build` made, and groups of hosts. For each
/// version the layers of five schemes are planned (windlass; dockerTools by popularity with maxLayers 100; nix2container the same;
/// nix2container with layers written by hand; one layer for each image), and for each way to hand them out (a registry, a Nix
/// binary cache, bundles with --since) it is counted what a host lacks that has the two versions that it took last.
///
/// What a host writes are the layers whose chain is new: Podman stores a layer again when one below it changed. From a binary
/// cache windlass links what the Nix store has, and writes no layer.
///
/// No image is built, nothing is fetched, and there is no clock and no chance in it: the same file, hosts and seed give the same
/// numbers. Sizes are those of the file: of a layer that is planned here they are the sum of its store paths' (`tarSize`, else the
/// size of the NAR) and of 2048 bytes; files of 1 MiB and more may take up to 4608 bytes more for their place.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct SimulateArgs {
    /// The history (JSON); `windlass schema simulate --history` has its form.
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// How many hosts there are.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    hosts: u32,
    /// How many of a hundred updates a host leaves out, in the place of what its group says. What it misses comes with a later one.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    skips: Option<u8>,
    /// Another number, other updates that are left out.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure the store paths that are on this host; every byte of them is read and packed once.
    #[arg(long)]
    measure: bool,
    /// Also draw it, as SVG; replaced in one step if it is there.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The whole simulation, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SimulateReport {
    hosts: u32,
    seed: u64,
    /// What changed with each version, the first one included.
    versions: Vec<String>,
    images: usize,
    groups: Vec<SimulatedGroup>,
    /// What each scheme costs on each route.
    costs: Vec<FleetCost>,
    /// Store paths that were measured, with --measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<usize>,
}

/// Hosts that are alike, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct SimulatedGroup {
    title: String,
    hosts: u32,
    images: BTreeSet<String>,
}

pub(super) fn run(args: &SimulateArgs, printer: &Printer, session: &Session) -> Result<()> {
    let stream = args.output.as_deref().is_some_and(is_stream);
    if stream && printer.json() {
        return Err(usage("the picture and --json both are the result; give --output a file"));
    }
    let mut history = FleetHistory::read(&args.history)?;
    let mut measured = None;
    if args.measure {
        let drawing = session.draw("measuring");
        let (here, absent) = history.measure(session.progress())?;
        drop(drawing);
        measured = Some(here);
        if absent > 0 {
            let paths = count(absent, "store path");
            printer.note(format!(
                "warning: {paths} of the history are not on this host: their sizes are those of the file"
            ));
        }
    }
    let request = FleetRequest { hosts: args.hosts, seed: args.seed, skips: args.skips };
    let report = SimulateReport {
        hosts: args.hosts,
        seed: args.seed,
        versions: history.versions.iter().map(|version| version.title.clone()).collect(),
        images: history.images().len(),
        groups: history
            .groups
            .iter()
            .zip(shares(&history.groups, args.hosts))
            .map(|(group, hosts)| SimulatedGroup { title: group.title.clone(), hosts, images: group.images.clone() })
            .collect(),
        costs: simulate(&history, request),
        measured,
    };
    if let Some(output) = &args.output {
        let target = Destination::new(output)?;
        target.write(&picture::picture(&report), printer)?;
        target.publish()?;
        if stream {
            return Ok(());
        }
    }
    if printer.json() {
        return printer.value(&report);
    }
    let updates = report.versions.len() - 1;
    let head = ["layers of", "by", "first", "updates", "a host", "at most", "a host writes"];
    let row = |cost: &FleetCost| {
        let each = |bytes: u64| size(bytes / u64::from(report.hosts));
        vec![
            cost.scheme.title().to_owned(),
            cost.route.title().to_owned(),
            size(cost.first.received),
            size(cost.updates.received),
            each(cost.updates.received),
            size(cost.most.received),
            each(cost.updates.written),
        ]
    };
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    printer.table(&std::iter::once(head).chain(report.costs.iter().map(row)).collect::<Vec<_>>())?;
    printer.line(format!(
        "{}, {}, {}: {}",
        count(args.hosts as usize, "host"),
        count(report.images, "image"),
        count(updates, "update"),
        sentence(&report)
    ))
}

/// What a fleet of windlass receives, in words: the least and the most for all updates.
fn sentence(report: &SimulateReport) -> String {
    let ours = |route: FleetRoute| {
        let cost = report.costs.iter().find(|cost| (cost.scheme, cost.route) == (LayerScheme::Windlass, route));
        cost.map_or(FleetBytes::default(), |cost| cost.updates)
    };
    let others =
        report.costs.iter().filter(|cost| cost.route == FleetRoute::Registry && cost.scheme != LayerScheme::Windlass);
    let least = others.map(|cost| cost.updates.received).min().unwrap_or(0);
    format!(
        "updates receive {} from a registry with windlass, {} with the best of the others",
        size(ours(FleetRoute::Registry).received),
        size(least)
    )
}
