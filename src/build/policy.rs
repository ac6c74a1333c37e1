//! What a stack may have, held against what it would have: before anything is hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::scan::{ScanFinding, read_scan};
use super::{BuildError, Outlook, dry_plan, outlook};
use crate::disk::progress::Progress;
use crate::image::LayerKind;
use crate::image::closure::{ImageClosure, is_blob};
use crate::image::layout::ImageDir;
use crate::image::summary::ImageOrigin;
use crate::inventory::Inventory;
use crate::model::licence::of_package;
use crate::names::Name;
use crate::nix::closure::ClosureGraph;
use crate::nix::package::PackageRecord;
use crate::nix::store_path::{StorePath, name_and_version};
use crate::oci::reference::image_name;
use crate::spec::policy::{AgePolicy, StackPolicy, is_below};
use crate::spec::{ModelSource, StackSpec};

/// An image of a stack, as far as rules are about it.
struct RuledImage {
    name: String,
    packages: BTreeSet<RuledPackage>,
    /// The image of a registry that it is, or is built upon.
    origin: Option<ImageOrigin>,
}

/// A package that is in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RuledPackage {
    name: String,
    version: String,
    licence: Option<String>,
}

/// What is against the rules, each once, with the images that have it.
#[derive(Default)]
struct Breaches(BTreeMap<(String, String), BTreeSet<String>>);

impl Breaches {
    /// Adds `what` in an image `says` something.
    fn add(&mut self, what: String, image: &str, says: String) {
        self.0.entry((what, says)).or_default().insert(image.to_owned());
    }

    fn lines(self) -> Vec<String> {
        let line = |((what, says), images): ((String, String), BTreeSet<String>)| {
            let images: Vec<String> = images.iter().map(|image| format!("'{image}'")).collect();
            let of = if images.len() == 1 { "image" } else { "images" };
            format!("{what} in {of} {} {says}", images.join(", "))
        };
        self.0.into_iter().map(line).collect()
    }
}

/// Looks whether a stack has what it may have; what there is to be warned of.
///
/// # Errors
/// If it has something else, or what it would have cannot be found out.
pub(super) fn check(spec: &StackSpec, graph: &ClosureGraph, progress: &Progress) -> Result<Vec<String>, BuildError> {
    let mut warnings = Vec::new();
    if spec.licences.is_empty() && spec.policy.is_empty() {
        return Ok(warnings);
    }
    let models = outlook(sources(spec), graph, progress)?;
    for model in &models {
        warnings.extend(spec.licences.check("licences", &model.name, model.licence.as_deref())?);
    }
    let found = against_policy(spec, &models, graph)?;
    warnings.extend(found.warnings);
    if found.breaches.is_empty() { Ok(warnings) } else { Err(BuildError::Policy(found.breaches)) }
}

/// What a stack has that its `policy` does not allow, a line each, and what there is to be warned of.
#[derive(Debug, Default)]
pub(crate) struct PolicyFindings {
    pub(crate) breaches: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

fn sources(spec: &StackSpec) -> impl Iterator<Item = &ModelSource> {
    spec.images.iter().flat_map(|image| &image.models).chain(&spec.models)
}

/// Holds a stack with these models against its `policy`.
///
/// # Errors
/// If what it would have cannot be found out, or the report of a scanner cannot be read.
pub(crate) fn against_policy(
    spec: &StackSpec,
    models: &[Outlook],
    graph: &ClosureGraph,
) -> Result<PolicyFindings, BuildError> {
    let (policy, mut warnings) = (&spec.policy, Vec::new());
    if policy.is_empty() {
        return Ok(PolicyFindings::default());
    }
    let images = images(spec, graph)?;
    let mut breaches = Breaches::default();
    for image in &images {
        warnings.extend(licences(policy, image, &mut breaches));
        if let Some(origin) = &image.origin {
            origins(policy, image, origin, &mut breaches);
        }
    }
    if let Some(rules) = &policy.vulnerabilities {
        let found = read_scan(&rules.report)?;
        images.iter().for_each(|image| vulnerabilities(policy, image, &found, &rules.report, &mut breaches));
    }
    let mut breaches = breaches.lines();
    for model in models {
        breaches.extend(model_licence(policy, model, &mut warnings));
    }
    breaches.extend(model_places(policy, sources(spec))?);
    Ok(PolicyFindings { breaches, warnings })
}

/// The images of a stack: those that would be built, and those that are there.
fn images(spec: &StackSpec, graph: &ClosureGraph) -> Result<Vec<RuledImage>, BuildError> {
    let mut images = Vec::new();
    for plan in dry_plan(&spec.images, graph)? {
        let layers = plan.layers.iter().filter(|layer| layer.kind != LayerKind::Model);
        let closure = ImageClosure::new(layers.map(|layer| &layer.recipe), graph, &plan.spec.store_dir, plan.known);
        let mut told: BTreeMap<&str, &PackageRecord> = BTreeMap::new();
        for package in closure.packages() {
            for path in package.outputs.values() {
                told.entry(path).or_insert(package);
            }
        }
        let paths = closure.paths().filter_map(Path::to_str);
        let packages = paths.filter_map(|path| RuledPackage::of(path, told.get(path).copied())).collect();
        let origin = plan.inherited.and_then(|inherited| inherited.origin);
        images.push(RuledImage { name: plan.spec.name, packages, origin });
    }
    for path in &spec.built {
        let image = ImageDir::open(path)?;
        let inventory = Inventory::read(&[&image])?;
        let packages = inventory.paths.iter();
        let packages = packages.filter_map(|(path, entry)| RuledPackage::of(path, entry.package.as_ref())).collect();
        let summary = image.summary();
        let origin = summary.origin.clone().or_else(|| summary.base.clone());
        images.push(RuledImage { name: summary.name.file_name().to_string(), packages, origin });
    }
    Ok(images)
}

impl RuledPackage {
    fn of(path: &str, package: Option<&PackageRecord>) -> Option<Self> {
        let path = StorePath::from_base_name(path.rsplit('/').next()?).ok()?;
        if is_blob(&path) {
            return None;
        }
        let (name, version) = name_and_version(path.name());
        let said = |said: Option<&String>, read: &str| said.cloned().unwrap_or_else(|| read.to_owned());
        Some(Self {
            name: said(package.and_then(|package| package.pname.as_ref()), name),
            version: said(package.and_then(|package| package.version.as_ref()), version),
            licence: package.and_then(of_package),
        })
    }

    fn title(&self) -> String {
        format!("{} {}", self.name, self.version).trim_end().to_owned()
    }
}

/// Licences of packages: what is refused, and a warning of what is not known.
fn licences(policy: &StackPolicy, image: &RuledImage, breaches: &mut Breaches) -> Option<String> {
    let rules = &policy.licences;
    let mut unknown = Vec::new();
    for package in image.packages.iter().filter(|package| !policy.unlicensed.contains(&package.name)) {
        if rules.is_empty() {
            break;
        }
        let Some(licence) = &package.licence else {
            unknown.push(package.title());
            continue;
        };
        let says = match rules.verdict(licence) {
            Ok(()) => continue,
            Err(Some(rule)) => format!(
                "has the licence {licence}, which '{rule}' in policy.licences.deny refuses: leave the package out, or take that \
                 rule away"
            ),
            Err(None) => format!(
                "has the licence {licence}, which is not in policy.licences.allow: leave the package out, or add its licence there"
            ),
        };
        breaches.add(package.title(), &image.name, says);
    }
    if rules.denies_unknown() {
        for package in unknown {
            let says = "has no known licence, and policy.licences.unknown is \"deny\": name its package in `packages` of the image, or its \
                        name in policy.unlicensed";
            breaches.add(package, &image.name, says.to_owned());
        }
        return None;
    }
    let first = unknown.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    let more = if unknown.len() > 4 { format!(" and {} more", unknown.len() - 4) } else { String::new() };
    (!unknown.is_empty()).then(|| {
        format!(
            "image '{}': nothing says which licence {first}{more} {}; name the packages in `packages` of the image",
            image.name,
            if unknown.len() == 1 { "has" } else { "have" }
        )
    })
}

/// Where an image of a registry is from, who has signed it, and how old it is.
fn origins(policy: &StackPolicy, image: &RuledImage, origin: &ImageOrigin, breaches: &mut Breaches) {
    let reference = origin.reference.as_deref();
    let what = reference.map_or_else(|| format!("the image {}", origin.digest.short()), str::to_owned);
    let mut add = |says: String| breaches.add(what.clone(), &image.name, says);
    if let Some(rules) = &policy.registries {
        let place = reference.map_or("", |reference| image_name(reference).0);
        if place.is_empty() {
            let says = "comes from an archive, and policy.registries names the registries that images may come from: pin it with `windlass \
                        upstream add`";
            add(says.to_owned());
        } else if !is_below(place, rules) {
            add(format!(
                "is from {place}, which is not in policy.registries: take it from a mirror that is, or add its place there"
            ));
        }
    }
    if let Some(rules) = &policy.signers {
        match &origin.signed_by {
            None => add(
                "has no signature that was verified, and policy.signers asks for one: add it again with `windlass upstream add --replace` \
                 and the key of its publisher"
                    .to_owned(),
            ),
            Some(signer) if !rules.contains(signer) => add(format!(
                "is signed by {signer}, which is not in policy.signers: add that there if you trust it, or leave the image out"
            )),
            Some(_) => {}
        }
    }
    if let Some(age) = &policy.age {
        add_age(age, origin, &mut add);
    }
}

fn add_age(age: &AgePolicy, origin: &ImageOrigin, add: &mut dyn FnMut(String)) {
    let AgePolicy { days, as_of } = age;
    match origin.created.as_deref().and_then(|created| age.age_of(created)) {
        None => add(format!(
            "does not say when it was made, and policy.age.days is {days}: leave it out, or ask for no age"
        )),
        Some(found) if found > i64::from(*days) => add(format!(
            "was made {found} days before {as_of}, and policy.age.days is {days}: lock a newer one with `windlass upstream update`, or \
             allow more days"
        )),
        Some(_) => {}
    }
}

/// What a scanner has found of the packages that an image has.
fn vulnerabilities(
    policy: &StackPolicy,
    image: &RuledImage,
    found: &[ScanFinding],
    report: &Path,
    breaches: &mut Breaches,
) {
    let Some(rules) = &policy.vulnerabilities else { return };
    let report = report.file_name().unwrap_or_default().to_string_lossy();
    for finding in found.iter().filter(|finding| finding.severity > rules.most && !rules.allow.contains(&finding.id)) {
        let is_it = |package: &&RuledPackage| package.name == finding.name && package.version == finding.version;
        for package in image.packages.iter().filter(is_it) {
            let says = format!(
                "has {}, of severity {} ({report}), and policy.vulnerabilities.most is \"{}\": take a version or a patch without it, or add \
                 \"{}\" to policy.vulnerabilities.allow",
                finding.id,
                finding.severity.word(),
                rules.most.word(),
                finding.id
            );
            breaches.add(package.title(), &image.name, says);
        }
    }
}

fn model_licence(policy: &StackPolicy, model: &Outlook, warnings: &mut Vec<String>) -> Option<String> {
    if policy.unlicensed.contains(&model.name) {
        return None;
    }
    match policy.licences.check("policy.licences", &model.name, model.licence.as_deref()) {
        Ok(warning) => {
            warnings.extend(warning);
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Where models were fetched from.
fn model_places<'a>(
    policy: &StackPolicy,
    sources: impl Iterator<Item = &'a ModelSource>,
) -> Result<Vec<String>, BuildError> {
    let mut lines = Vec::new();
    let Some(rules) = &policy.models else { return Ok(lines) };
    // An image names its models too, without what is known of them.
    let mut places: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let place = |address: &String| address.split_once("://").map_or(address.as_str(), |(_, rest)| rest).to_owned();
        places.entry(super::models::name_of(source)?).or_default().extend(source.sources.iter().map(place));
    }
    for (name, places) in places {
        if places.iter().any(|place| is_below(place, rules)) {
            continue;
        }
        lines.push(match places.first() {
            None => format!(
                "nothing says where model '{name}' was fetched from, and policy.models names the places that models may come from: take it \
                 by `fetchModel`"
            ),
            Some(place) => format!(
                "model '{name}' was fetched from {place}, which is not in policy.models: take it from a place that is, or add its place \
                 there"
            ),
        });
    }
    Ok(lines)
}
