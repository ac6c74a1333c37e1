//! `windlass sbom`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Result, usage};
use super::output::{Destination, is_stream};
use super::printer::{Printer, count};
use super::targets;
use crate::image::layout::ImageDir;
use crate::inventory::Inventory;
use crate::oci::canonical;
use crate::sbom::{BomFormat, document};

const EXAMPLE: &str = "Examples:
  windlass sbom ./result > stack.cdx.json
  windlass sbom ./result --format spdx --output stack.spdx.json
  windlass sbom ./result/images/redis --json | jq .unknown

It reads what image directories say and no layer, opens no connection and needs no Nix: the same directories give the same bytes on
every host. SOURCE_DATE_EPOCH, where it is set, is when the document says that it was made.";

/// Write a bill of materials: every store path with the layer and the images that have it, models, and images of registries.
///
/// Name, version, licence, source, patches, CPE and package URL of a store path come from nixpkgs, by way of the Nix functions.
/// Where they were not told, the document says that they are unknown.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct SbomArgs {
    /// Stacks, bundles and image directories; all of them are one document.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The format of the document.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "cyclonedx")]
    format: SbomFormat,
    /// Write it here; replaced in one step if it is there. By default it goes to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The formats, by the names that users type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SbomFormat {
    /// CycloneDX 1.6, as JSON.
    #[value(name = "cyclonedx")]
    CycloneDx,
    /// SPDX 2.3, as JSON.
    Spdx,
}

/// What a bill of materials has, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct SbomReport {
    /// Where it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<PathBuf>,
    format: SbomFormat,
    images: usize,
    layers: usize,
    models: usize,
    /// How many store paths there are.
    paths: usize,
    /// The store paths of which nixpkgs says nothing here.
    unknown: Vec<String>,
    /// The store paths and models whose licence is not known.
    unlicensed: Vec<String>,
}

pub(super) fn run(args: &SbomArgs, printer: &Printer) -> Result<()> {
    let targets = targets::targets(&args.paths, &[])?;
    let images: Vec<&ImageDir> = targets.iter().map(|target| &target.image).collect();
    let inventory = Inventory::read(&images)?;
    let format = match args.format {
        SbomFormat::CycloneDx => BomFormat::CycloneDx,
        SbomFormat::Spdx => BomFormat::Spdx,
    };
    let text = String::from_utf8(canonical::to_pretty(&document(&inventory, format, epoch()?.as_deref())))?;
    let output = args.output.as_deref().filter(|output| !is_stream(output));
    if args.output.is_some() && output.is_none() && printer.json() {
        return Err(usage("--output - and --json both are the result; give --output a file"));
    }
    let report = report(&inventory, output, args.format);
    if let Some(output) = output {
        let target = Destination::new(output)?;
        target.write(&text, printer)?;
        target.publish()?;
    }
    match output {
        _ if printer.json() => printer.value(&report),
        None => printer.bytes(text.as_bytes()),
        Some(output) => {
            let unknown = report.unknown.len();
            let rest = if unknown == 0 {
                String::new()
            } else {
                format!("; nothing is known from nixpkgs of {unknown} of them")
            };
            let counted = [
                count(report.images, "image"),
                count(report.layers, "layer"),
                count(report.models, "model"),
                count(report.paths, "store path"),
            ];
            printer.line(format!("{}: {}{rest}", output.display(), counted.join(", ")))
        }
    }
}

fn report(inventory: &Inventory, output: Option<&Path>, format: SbomFormat) -> SbomReport {
    let of = |is_so: &dyn Fn(&crate::inventory::InventoryPath) -> bool| -> Vec<String> {
        inventory.paths.iter().filter(|(_, path)| is_so(path)).map(|(name, _)| name.clone()).collect()
    };
    let mut unlicensed = of(&|path| path.package.as_ref().is_none_or(|package| package.licences.is_empty()));
    let models = inventory.models.iter().filter(|(_, model)| model.licence.is_none());
    unlicensed.extend(models.map(|(name, _)| name.to_string()));
    SbomReport {
        output: output.map(Path::to_owned),
        format,
        images: inventory.images.len(),
        layers: inventory.layers.len(),
        models: inventory.models.len(),
        paths: inventory.paths.len(),
        unknown: of(&|path| path.package.is_none()),
        unlicensed,
    }
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), as the formats write it.
fn epoch() -> Result<Option<String>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    let at = text.parse().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    match at {
        Some(at) => Ok(Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
        None => Err(usage(format!("SOURCE_DATE_EPOCH is '{text}': expected seconds since 1970, or nothing"))),
    }
}
