//! `windlass model split`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::failure::{Result, no_space, usage};
use crate::cli::printer::{Printer, count, parse_size, size};
use crate::cli::session::Session;
use crate::cli::view;
use crate::disk::Staging;
use crate::disk::files::free_space;
use crate::model::forms::gguf_split::{Shard, base_of, split};
use crate::model::read::facts::ModelFormat;
use crate::model::read::shards::ShardName;

const EXAMPLE: &str = r#"Example:
  windlass model split qwen3.gguf --output qwen3
  echo '{"kind": "model", "name": "qwen3", "source": "/srv/qwen3", "layers": "files"}' > model.json
  windlass build model.json --output model
With Nix: buildModel { name = "qwen3"; src = …; split = "metadata"; }"#;

/// Split a GGUF file so that another chat template or licence moves megabytes.
///
/// The first shard holds everything but tensors, the others hold tensors and nothing else: they are the same files for
/// every model with these tensors, whatever describes it. llama.cpp is given the first and finds the others beside it;
/// Ollama reads no split files. As a model with "layers": "files", each shard of tensors is a layer of its own below the
/// first one's.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelSplitArgs {
    /// The GGUF file.
    file: PathBuf,
    /// The directory to put the shards into; replaced in one step if it holds shards of this file's name.
    #[arg(short, long)]
    output: PathBuf,
    /// What a shard has at most, unless one tensor alone has more: `20GB`, `4GiB`, or bytes.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = shard_size)]
    max_size: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ModelSplitReport {
    output: PathBuf,
    shards: Vec<ModelSplitRow>,
    read: u64,
    written: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ModelSplitRow {
    name: String,
    size: u64,
    tensors: usize,
}

pub(super) fn run(args: &ModelSplitArgs, printer: &Printer, session: &Session) -> Result<()> {
    let ModelSplitArgs { file, output, max_size } = args;
    let name = base_of(view::short(&file.to_string_lossy())).to_owned();
    if output.symlink_metadata().is_ok() && !holds_shards(output, &name) {
        let message = format!(
            "{} exists, and is not a directory with shards of {name} and nothing else; give another --output",
            output.display()
        );
        return Err(usage(message));
    }
    let progress = session.progress();
    let staging = Staging::directory(output)?;
    let (needed, free) = (file.metadata().map_or(0, |metadata| metadata.len()), free_space(staging.path())?);
    if needed > free {
        let message = format!("{} needs {}, and {} are free there", output.display(), size(needed), size(free));
        return Err(no_space(message));
    }
    let drawing = session.draw("splitting");
    let shards = split(file, &name, staging.path(), *max_size, progress)?;
    staging.publish()?;
    drop(drawing);
    let row = |Shard { name, size, tensors }: Shard| ModelSplitRow { name, size, tensors };
    let shards: Vec<ModelSplitRow> = shards.into_iter().map(row).collect();
    let (read, written) = (progress.read(), progress.written());
    if printer.json() {
        return printer.value(&ModelSplitReport { output: output.clone(), shards, read, written });
    }
    let cells = |row: &ModelSplitRow| vec![row.name.clone(), size(row.size), count(row.tensors, "tensor")];
    printer.table(&shards.iter().map(cells).collect::<Vec<_>>())?;
    printer.line(format!(
        "{}: {}; wrote {}; llama.cpp is given the first",
        output.display(),
        count(shards.len(), "shard"),
        size(written)
    ))
}

fn shard_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size == 0 { Err("a shard of nothing holds nothing".to_owned()) } else { Ok(size) }
}

/// Whether a directory is what an earlier run made, which may be replaced.
fn holds_shards(directory: &Path, name: &str) -> bool {
    let is_shard = |entry: std::io::Result<std::fs::DirEntry>| {
        let name_of = |entry: std::fs::DirEntry| entry.file_name().to_str().and_then(ShardName::parse);
        entry
            .ok()
            .and_then(name_of)
            .is_some_and(|shard| shard.base == name && shard.extension == ModelFormat::Gguf.extension())
    };
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.all(is_shard))
}
