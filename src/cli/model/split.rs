//! `windlass model split`

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::blobs::{Staging, free_space};
use crate::cli::failure::{NoSpace, Usage};
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::cli::view;
use crate::model::shards::ShardName;
use crate::model::split::{DEFAULT_MAX_SIZE, Shard, base_of, split};

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
pub(super) struct Args {
    /// The GGUF file.
    file: PathBuf,
    /// The directory to put the shards into; replaced in one step if it holds shards of this file's name.
    #[arg(short, long)]
    output: PathBuf,
    /// Bytes that a shard has at most, unless one tensor alone has more.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_SIZE, value_parser = clap::value_parser!(u64).range(1..))]
    max_size: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    output: PathBuf,
    shards: Vec<Row>,
    read: u64,
    written: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    size: u64,
    tensors: usize,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let Args { file, output, max_size } = args;
    let name = base_of(view::short(&file.to_string_lossy())).to_owned();
    if output.symlink_metadata().is_ok() && !holds_shards(output, &name) {
        let message = format!(
            "{} exists, and is no directory with shards of {name} and nothing else; give another --output",
            output.display()
        );
        return Err(Usage(message).into());
    }
    let progress = session.progress();
    let staging = Staging::directory(output)?;
    let (needed, free) = (file.metadata().map_or(0, |metadata| metadata.len()), free_space(staging.path())?);
    if needed > free {
        let message = format!("{} needs {}, and {} are free there", output.display(), size(needed), size(free));
        return Err(NoSpace(message).into());
    }
    let drawing = session.draw("splitting");
    let shards = split(file, &name, staging.path(), *max_size, progress)?;
    staging.publish()?;
    drop(drawing);
    let row = |Shard { name, size, tensors }: Shard| Row { name, size, tensors };
    let shards: Vec<Row> = shards.into_iter().map(row).collect();
    let (read, written) = (progress.read(), progress.written());
    if printer.json() {
        return printer.value(&Report { output: output.clone(), shards, read, written });
    }
    let cells = |row: &Row| vec![row.name.clone(), size(row.size), count(row.tensors, "tensor")];
    printer.table(&shards.iter().map(cells).collect::<Vec<_>>())?;
    printer.line(format!(
        "{}: {}; wrote {}; llama.cpp is given the first",
        output.display(),
        count(shards.len(), "shard"),
        size(written)
    ))
}

/// Whether a directory is what an earlier run made, which may be replaced.
fn holds_shards(directory: &Path, name: &str) -> bool {
    let is_shard = |entry: std::io::Result<std::fs::DirEntry>| {
        let name_of = |entry: std::fs::DirEntry| entry.file_name().to_str().and_then(ShardName::parse);
        entry.ok().and_then(name_of).is_some_and(|shard| shard.base == name && shard.extension == "gguf")
    };
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.all(is_shard))
}
