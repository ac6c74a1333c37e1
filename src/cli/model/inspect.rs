//! `windlass model inspect`

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::failure::Result;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::model::read::inspect::inspect;

const EXAMPLE: &str = "Examples:
  windlass model inspect Qwen3-8B-Q4_K_M.gguf
  windlass model inspect /nix/store/…-big-00001-of-00003.gguf    any shard gives the facts of all
  windlass model inspect ./all-MiniLM-L6-v2                      a directory with one model, in folders too
  windlass model inspect --json model.safetensors

It ends with 4 if a file is not what it should be: cut off, damaged, empty, a web page or a Git LFS
pointer under a model's name, or a shard that is missing, renamed or does not fit. What the format
allows and a program will not load is a warning.";

/// Show what a model is: architecture, parameters, quantisation, context, licence.
///
/// The headers of GGUF and safetensors files are read, nothing else of them, in little memory, however large they are.
/// All shards of a split model are looked for beside the one that is named, and have to fit each other. What a header
/// does not say is not shown; the licence is in SPDX's words.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelInspectArgs {
    /// A .gguf or .safetensors file, a shard, or the directory of one model.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

pub(super) fn run(args: &ModelInspectArgs, printer: &Printer, session: &Session) -> Result<()> {
    let inspected = inspect(&args.path, session.progress())?;
    if printer.json() {
        return printer.value(&inspected);
    }
    let facts = &inspected.facts;
    let number = |number: &u64| number.to_string();
    let rows = [
        ("format", Some(facts.format.as_str().to_owned())),
        ("name", facts.name.clone()),
        ("version", facts.version.clone()),
        ("kind", facts.kind.clone()),
        ("architecture", facts.architecture.clone()),
        ("parameters", Some(format!("{} ({})", short(facts.parameters), facts.parameters))),
        ("quantisation", facts.quantization.clone()),
        ("context", facts.context_length.as_ref().map(number)),
        ("embedding", facts.embedding_length.as_ref().map(number)),
        ("licence", Some(facts.licence.clone().unwrap_or_else(|| "unknown".to_owned()))),
        ("vendor", facts.vendor.clone()),
        ("source", facts.source.clone()),
        ("languages", (!facts.languages.is_empty()).then(|| facts.languages.join(", "))),
        ("chat template", facts.chat_template.map(|digest| digest.to_string())),
        ("beside it", (!facts.beside.is_empty()).then(|| beside(&facts.beside))),
    ];
    let row = |(key, value): (&str, Option<String>)| Some(vec![key.to_owned(), value?]);
    printer.table(&rows.into_iter().filter_map(row).collect::<Vec<_>>())?;
    printer.line("")?;
    let row = |file: &crate::model::read::facts::InspectedFile| vec![size(file.size), file.path.display().to_string()];
    printer.table(&inspected.files.iter().map(row).collect::<Vec<_>>())?;
    let bytes = inspected.files.iter().map(|file| file.size).sum();
    printer.line(format!("{}, {}", count(inspected.files.len(), "file"), size(bytes)))?;
    inspected.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    Ok(())
}

/// What lies with the model: `mmproj-m.gguf (mmproj)`.
fn beside(files: &BTreeMap<String, String>) -> String {
    files.iter().map(|(path, kind)| format!("{path} ({kind})")).collect::<Vec<_>>().join(", ")
}

/// A number of parameters for people: `134.5M`, `8.2B`.
fn short(parameters: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1000, "K")];
    match UNITS.into_iter().find(|(unit, _)| parameters >= *unit) {
        Some((unit, name)) => {
            let tenths = (u128::from(parameters) * 10 + u128::from(unit) / 2) / u128::from(unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => parameters.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn parameters_are_short() {
        for (number, text) in [(0, "0"), (999, "999"), (134_515_008, "134.5M"), (8_190_735_360, "8.2B"), (1000, "1.0K")]
        {
            assert_eq!(short(number), text);
        }
    }
}
