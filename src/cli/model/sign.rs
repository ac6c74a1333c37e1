//! `windlass model sign`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::super::failure::Result;
use crate::cli::complete;
use crate::cli::output::{Destination, is_stream};
use crate::cli::printer::{Printer, count};
use crate::cli::signing::signer;
use crate::model::pin::lock;
use crate::model::pin::model_signature::statement;
use crate::oci::digest::Digest;
use crate::signing::sigstore_bundle::SigstoreBundle;

const EXAMPLE: &str = "Examples:
  windlass model sign smollm2 --key cosign.key --output model.sig
  model_signing verify key --public_key cosign.pub --signature model.sig DIRECTORY";

/// Sign a model of a lock, as OpenSSF model-signing does.
///
/// The lock has the SHA-256 of every file, so that none is read. Who has the files and the public key verifies them with the
/// PyPI package `model-signing`, or with `windlass model add --signature`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelSignArgs {
    /// The model's name in the lock.
    #[arg(add = complete::locked_models())]
    name: String,
    /// The key that signs: a file (PEM, or a key of cosign, whose password COSIGN_PASSWORD has), or an address that `cosign`
    /// in PATH knows.
    #[arg(long)]
    key: String,
    /// Where the signature goes.
    #[arg(short, long, value_name = "FILE", default_value = "model.sig")]
    output: PathBuf,
    /// The lock.
    #[arg(long, value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModelSignReport<'a> {
    name: &'a str,
    files: usize,
    /// The digest of the public key that verifies it.
    signed_by: Digest,
    output: PathBuf,
    sentence: String,
}

pub(super) fn run(args: &ModelSignArgs, printer: &Printer) -> Result<()> {
    let lock = lock::read(&args.lock)?;
    let model = lock.model(&args.name, &args.lock)?;
    let files: BTreeMap<&str, Digest> = model.files.iter().map(|file| (&*file.path, file.sha256)).collect();
    let signer = signer(&args.key)?;
    let bundle = SigstoreBundle::sign_model(&statement(&args.name, &files), &signer)?.to_bytes();
    let destination = Destination::new(&args.output)?;
    destination.write(&String::from_utf8_lossy(&bytes_with_end(bundle)), printer)?;
    destination.publish()?;
    if is_stream(&args.output) {
        return Ok(());
    }
    let signed_by = signer.public().digest;
    let output = args.output.clone();
    let sentence = format!(
        "{}: {} of {} signed by the key sha256:{}",
        output.display(),
        count(files.len(), "file"),
        args.name,
        signed_by.short()
    );
    if printer.json() {
        return printer.value(&ModelSignReport { name: &args.name, files: files.len(), signed_by, output, sentence });
    }
    printer.line(sentence)
}

/// A file of text ends with a new line.
fn bytes_with_end(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(b'\n');
    bytes
}
