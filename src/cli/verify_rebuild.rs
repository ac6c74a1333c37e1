//! `windlass verify --rebuild`

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::failure::{Result, unverified, usage};
use super::host::nix_places;
use super::output::Destination;
use super::printer::{Printer, count, size};
use super::session::Session;
use super::signing::signer;
use super::targets::{lean, targets};
use super::verify::VerifyArgs;
use crate::attest::rebuild::{LayerDifference, RebuiltImage, RebuiltLayer, compare, rebuild};
use crate::image::layout::ImageDir;
use crate::nix::rebuild::{self as derivation, RebuiltPath};
use crate::nix::store_path::StoreDir;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::statement::{InTotoStatement, StatedSubject};

/// What a statement of a rebuild says that it is.
const REBUILD: &str = "urn:windlass:rebuild:1";

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RebuildReport {
    /// `derivation`, where Nix built it, else `recipes`.
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    derivation: Option<PathBuf>,
    images: Vec<RebuildRow>,
    read: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<PathBuf>,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RebuildRow {
    #[serde(rename = "ref")]
    reference: String,
    digest: Digest,
    /// Its layers, bottom first, up to the first that differs.
    layers: Vec<RebuiltLayer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<LayerDifference>,
}

pub(super) fn run(path: &Path, args: &VerifyArgs, printer: &Printer, session: &Session) -> Result<()> {
    let path = lean(path);
    let key = args.key.as_deref().map(signer).transpose()?;
    let images: Vec<ImageDir> = open(&path)?;
    let copies = args.against.as_deref().map(open).transpose()?.unwrap_or_default();
    let copy_of = |image: &ImageDir| copies.iter().find(|copy| copy.summary().digest == image.summary().digest);
    if let Some(image) = images.iter().find(|image| args.against.is_some() && copy_of(image).is_none()) {
        let (against, image) = (args.against.as_deref().unwrap_or(&path).display(), &image.summary().reference);
        return Err(usage(format!(
            "{against} does not have {image} with the same digest; there is nothing to compare"
        )));
    }
    let drawing = session.draw("building again");
    let progress = session.progress();
    let by_nix = by_nix(&path)?;
    let mut rows = Vec::new();
    for image in &images {
        let made = by_nix.as_ref().and_then(|(store_path, found)| Some((store_path, found.other.as_ref()?)));
        let built = match made {
            Some((store_path, other)) => {
                let inside = image.path().canonicalize()?;
                let inside = inside.strip_prefix(store_path).map(Path::to_owned).unwrap_or_default();
                compare(image, &ImageDir::open(&other.join(inside))?, progress)?
            }
            None if by_nix.is_some() && copy_of(image).is_none() => as_built(image),
            None => rebuild(image, copy_of(image), progress)?,
        };
        let summary = image.summary();
        rows.push(RebuildRow {
            reference: summary.reference.to_string(),
            digest: summary.digest,
            layers: built.layers,
            difference: built.difference,
        });
    }
    drop(drawing);
    let differ = rows.iter().filter(|row| row.difference.is_some()).count();
    let layers: usize = rows.iter().map(|row| row.layers.len()).sum();
    let method = if by_nix.is_some() { "derivation" } else { "recipes" };
    let outside = by_nix.as_ref().is_some_and(|(_, found)| found.other.is_some()) && differ == 0;
    let said = match differ {
        0 if outside => "the images are equal, and other files beside them are not".to_owned(),
        0 => "all equal".to_owned(),
        differ => format!("{} not", count(differ, "image")),
    };
    let sentence = format!(
        "{}, {} built again from {}: {said}; read {}",
        count(rows.len(), "image"),
        count(layers, "layer"),
        if by_nix.is_some() { "the derivation" } else { "recipes" },
        size(progress.read())
    );
    let derivation = by_nix.map(|(_, found)| found.derivation);
    let report = RebuildReport {
        method,
        derivation,
        images: rows,
        read: progress.read(),
        statement: args.statement.clone(),
        sentence,
    };
    if let Some(file) = &args.statement {
        let statement = statement(&report, differ == 0 && !outside);
        let bytes = match &key {
            Some(key) => SigstoreBundle::sign(&statement, key)?.to_bytes(),
            None => canonical::to_pretty(&statement),
        };
        let destination = Destination::new(file)?;
        destination.write(&String::from_utf8_lossy(&bytes), printer)?;
        destination.publish()?;
    }
    tell(&report, printer)?;
    match differ {
        0 if !outside => Ok(()),
        0 => {
            Err(unverified("the derivation gives other files now; they are beside its output, with the ending .check"))
        }
        differ => Err(unverified(format!(
            "{} not what it is built of",
            if differ == 1 { "1 image is".to_owned() } else { format!("{differ} images are") }
        ))),
    }
}

fn open(path: &Path) -> Result<Vec<ImageDir>> {
    Ok(targets(&[path.to_owned()], &[])?.into_iter().map(|target| target.image).collect())
}

/// What Nix makes of the derivation of a store path, where it knows it.
fn by_nix(path: &Path) -> Result<Option<(PathBuf, RebuiltPath)>> {
    let places = nix_places();
    let path = path.canonicalize()?;
    let store = StoreDir::new(&places.store.to_string_lossy())?;
    let Ok((store_path, _)) = store.parse_inside(&path.to_string_lossy()) else { return Ok(None) };
    let store_path = PathBuf::from(store.display(&store_path));
    Ok(derivation::rebuild(&places, &store_path)?.map(|found| (store_path, found)))
}

/// What Nix has compared: the digests in it are those of the bytes that the build read.
fn as_built(image: &ImageDir) -> RebuiltImage {
    let layers = image.summary().layers().into_iter();
    let layer = |layer: &crate::image::LayerRecord| RebuiltLayer {
        digest: layer.digest,
        rebuilt: layer.digest,
        size: layer.size,
        compared: false,
    };
    RebuiltImage { layers: layers.map(layer).collect(), difference: None }
}

fn statement(report: &RebuildReport, equal: bool) -> InTotoStatement {
    let subject = |row: &RebuildRow| StatedSubject::new(row.reference.clone(), row.digest);
    let mut predicate = json!({
        "rebuilder": { "id": "urn:windlass:rebuilder", "version": { "windlass": env!("CARGO_PKG_VERSION") } },
        "method": report.method,
        "result": if equal { "PASSED" } else { "FAILED" },
        "images": report.images,
    });
    if let Some(derivation) = &report.derivation {
        predicate["derivation"] = derivation.to_string_lossy().into();
    }
    InTotoStatement::new(report.images.iter().map(subject).collect(), REBUILD, predicate)
}

fn tell(report: &RebuildReport, printer: &Printer) -> Result<()> {
    if printer.json() {
        return printer.value(report);
    }
    for row in &report.images {
        match &row.difference {
            None => {
                printer.line(format!("{}: {} built again, equal", row.reference, count(row.layers.len(), "layer")))?;
            }
            Some(difference) => in_words(difference)
                .into_iter()
                .try_for_each(|line| printer.line(format!("{}: {line}", row.reference)))?,
        }
    }
    printer.line(&report.sentence)
}

/// What differs, and where it comes from.
fn in_words(difference: &LayerDifference) -> Vec<String> {
    let LayerDifference { layer, title, digest, rebuilt, file, byte, offset, was, is, sources, copy_is_wrong } =
        difference;
    let what = match layer {
        0 => title.clone(),
        layer => format!("layer {layer} ({title})"),
    };
    let byte_of = |byte: &Option<u8>| byte.map_or("nothing".to_owned(), |byte| format!("0x{byte:02x}"));
    let place = match (file, byte, offset) {
        (Some(file), Some(byte), _) => format!("byte {byte} of {}", file.display()),
        (Some(file), None, Some(_)) => format!("the header of {}", file.display()),
        (Some(file), None, None) => {
            format!("{}; which byte is not known without a copy, --against COPY gives one", file.display())
        }
        (None, _, Some(offset)) => format!("byte {offset}"),
        (None, _, None) => "where is not known without a copy, --against COPY gives one".to_owned(),
    };
    let bytes = match offset {
        Some(_) if *copy_is_wrong => format!(": the copy has {}, and {} is right", byte_of(was), byte_of(is)),
        Some(_) => format!(": it was {}, and is {} now", byte_of(was), byte_of(is)),
        None => String::new(),
    };
    let mut lines = vec![format!("{what} differs first at {place}{bytes}")];
    match copy_is_wrong {
        true => lines.push(format!("what is built again has the digest of the image, {digest}; the copy is damaged")),
        false => lines.push(format!("it has {digest}, and {rebuilt} is built now")),
    }
    if !sources.is_empty() {
        lines.push(format!("look at {}", sources.join(" ")));
    }
    lines
}
