//! `windlass schema`: JSON Schemas of specs, and of what each verb prints with `--json`.
//!
//! They are made from the types that are read and printed, so they cannot say anything else. The number at the end of `$id` is
//! that of the format: it grows when something is taken away or means something else, not when a key is added.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Value, json};

use super::failure::{Result, usage};
use super::printer::{JSON_VERSION, Printer};
use super::{
    attest, build, bundle, compose, diff, doctor, export, failure, gc, generations, inspect, lint, load, load_plan,
    plan, push, repair, report, rollback, sbom, simulate, status, unload, verify, verify_rebuild,
};
use super::{cache, model, upstream};
use crate::fleet::history::HistoryFile;
use crate::model::forms::ollama::OllamaSpec;
use crate::names::no_such;
use crate::spec::{ImageSpec, IndexSpec, LayerSpec, ModelSpec, OciSpec, StackSpec, UpstreamSpec};

/// The number of the format that all of them are of.
const VERSION: u32 = 1;
/// JSON Schema that editors and validators of all languages know.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

const EXAMPLE: &str = "Examples:
  windlass schema                         the names
  windlass schema spec > spec.schema.json
  windlass schema upstream check";

/// Print the JSON Schema (draft 7) of specs, or of what a verb prints with `--json`.
///
/// Without a name, the names are listed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct SchemaArgs {
    /// `spec`, or a verb: load, upstream check, "load --dry-run".
    #[arg(value_name = "NAME", allow_hyphen_values = true)]
    name: Vec<String>,
}

/// All names, for JSON.
#[derive(Debug, Serialize, JsonSchema)]
struct Names<'a> {
    schemas: Vec<&'a str>,
}

/// What is described, by its name.
pub(super) type Described = (&'static str, fn() -> Schema);

/// The schema of what is printed.
pub(super) fn printed<T: JsonSchema>() -> Schema {
    let mut schema = settings().for_serialize().into_generator().into_root_schema_for::<T>().to_value();
    // Each is an object with the version of its format.
    schema["properties"]["version"] = json!({ "description": "The version of this format.", "const": JSON_VERSION });
    match schema["required"].as_array_mut() {
        Some(required) => required.push("version".into()),
        None => schema["required"] = json!(["version"]),
    }
    schema.try_into().expect("it was a schema before")
}

fn settings() -> SchemaSettings {
    // Formats such as `uint64` are Rust's own, and validators refuse those that they do not know.
    let standard = |schema: &mut Schema| {
        if schema.get("format").is_some_and(|format| format != "date-time") {
            schema.remove("format");
        }
    };
    SchemaSettings::draft07().with_transform(RecursiveTransform(standard))
}

fn all() -> Vec<Described> {
    let mut all: Vec<Described> = vec![
        ("spec", spec),
        ("build", printed::<build::BuildReport>),
        ("plan", printed::<plan::PlanReport>),
        ("diff", printed::<diff::DiffReport>),
        ("simulate", printed::<simulate::SimulateReport>),
        ("simulate --history", read::<HistoryFile>),
        ("inspect", printed::<inspect::InspectReport>),
        ("report", printed::<report::ReportWritten>),
        ("sbom", printed::<sbom::SbomReport>),
        ("export", printed::<export::ExportReport>),
        ("export --bundle", printed::<bundle::BundleReport>),
        ("push", printed::<push::PushReport>),
        ("attest", printed::<attest::AttestReport>),
        ("lint", printed::<lint::LintReport>),
        ("load", printed::<load::LoadReport<'static>>),
        ("load --dry-run", printed::<load_plan::LoadPlan<'static>>),
        ("status", printed::<status::StatusReport>),
        ("verify", printed::<verify::VerifyReport>),
        ("verify --rebuild", printed::<verify_rebuild::RebuildReport>),
        ("repair", printed::<repair::RepairReport>),
        ("generations", printed::<generations::GenerationsReport<'static>>),
        ("rollback", printed::<rollback::RollbackReport>),
        ("unload", printed::<unload::UnloadReport<'static>>),
        ("gc", printed::<gc::GcReport<'static>>),
        ("doctor", printed::<doctor::DoctorReport>),
        ("doctor --make-store", printed::<doctor::MadeReport>),
        ("error", printed::<failure::ErrorReport>),
        ("compose import", printed::<compose::ComposeImportReport>),
        ("compose export", printed::<compose::ComposeExportReport>),
    ];
    all.extend(model::schemas());
    all.extend(upstream::schemas());
    all.extend(cache::schemas());
    all
}

/// The schema of a file that is read.
fn read<T: JsonSchema>() -> Schema {
    settings().into_generator().into_root_schema_for::<T>()
}

/// A spec is one of several kinds, which its key `kind` tells apart.
fn spec() -> Schema {
    let mut generator = settings().into_generator();
    let kinds: Vec<Value> = vec![
        kind::<ImageSpec>("image", &mut generator),
        kind::<ModelSpec>("model", &mut generator),
        kind::<LayerSpec>("layer", &mut generator),
        kind::<UpstreamSpec>("upstream", &mut generator),
        kind::<OciSpec>("oci", &mut generator),
        kind::<IndexSpec>("index", &mut generator),
        kind::<StackSpec>("stack", &mut generator),
        kind::<OllamaSpec>("ollama", &mut generator),
    ];
    let definitions = generator.take_definitions(true);
    let mut schema = json_schema!({ "$schema": DRAFT, "title": "Spec", "oneOf": kinds, "definitions": definitions });
    generator.transforms_mut().for_each(|transform| transform.transform(&mut schema));
    schema
}

fn kind<T: JsonSchema>(name: &str, generator: &mut SchemaGenerator) -> Value {
    let mut schema = T::json_schema(generator).to_value();
    schema["properties"]["kind"] = json!({ "const": name });
    match schema["required"].as_array_mut() {
        Some(required) => required.push("kind".into()),
        None => schema["required"] = json!(["kind"]),
    }
    schema["title"] = T::schema_name().into();
    schema
}

pub(super) fn run(args: &SchemaArgs, printer: &Printer) -> Result<()> {
    let all = all();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    if args.name.is_empty() {
        return match printer.json() {
            true => printer.value(&Names { schemas: names }),
            false => names.iter().try_for_each(|name| printer.line(name)),
        };
    }
    let wanted = args.name.join(" ");
    let Some((name, schema)) = all.iter().find(|(name, _)| *name == wanted) else {
        return Err(usage(no_such("schema", wanted, "", names)));
    };
    let mut schema = schema().to_value();
    schema["$id"] = format!("urn:windlass:schema:{}:{VERSION}", name.replace(" --", "-").replace(' ', "-")).into();
    printer.document(&schema)
}
