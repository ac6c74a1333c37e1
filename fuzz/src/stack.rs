//! Stacks: `stack.json` and `services.json`, exported as a compose file. What is taken for a path stays inside; what is
//! exported says in YAML what the description says, line for line, and our own import takes it.

use std::fs;
use std::path::{Path, PathBuf};

use windlass::internals::build::stack::{StackDir, StackJson, read_services};
use windlass::internals::compose::export::export;
use windlass::internals::compose::import::import;
use windlass::internals::compose::read::ImportOptions;
use windlass::internals::compose::read::yaml::{self, YamlNode, YamlValue};
use windlass::internals::oci::canonical;
use windlass::internals::spec::service::{ServiceConfig, check_all};

use super::{layout, sections, stays_inside};

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let files = sections(data);
    let image: Vec<_> = files.iter().copied().filter(|(name, _)| !is_own(name)).collect();
    layout::write(&dir.path().join("images/app"), image);
    for (name, content) in files.into_iter().filter(|(name, _)| is_own(name)) {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let bytes = fs::read(dir.path().join("stack.json")).unwrap_or_default();
    let Ok(stack) = serde_json::from_slice::<StackJson>(&bytes) else { return false };
    assert_eq!(serde_json::from_slice::<StackJson>(&canonical::to_pretty(&stack)).unwrap(), stack);
    let places = stack.images.iter().flat_map(|image| image.archive.iter().chain(&image.directory));
    places.chain(stack.models.iter().flat_map(|model| model.archive.iter().chain(&model.directory))).for_each(
        |place| {
            stays_inside(place);
        },
    );
    drop(StackDir::open(dir.path()));
    exports(dir.path());
    true
}

fn is_own(name: &str) -> bool {
    matches!(name, "stack.json" | "services.json")
}

fn exports(stack: &Path) {
    let Ok(text) = export(stack) else { return };
    let document =
        yaml::parse(&text, 0).unwrap_or_else(|error| panic!("what was exported is no YAML: {error:?}\n{text}"));
    let described = read_services(stack).expect("it was exported");
    for (name, service) in &described {
        if service.check_text().is_err() {
            return;
        }
        let services = &document.root.get("services").expect("a compose file has services").value;
        let one = &services.get(name).unwrap_or_else(|| panic!("{name:?} is not in\n{text}")).value;
        says(one, service);
    }
    if check_all(&described).is_err() {
        return;
    }
    let file = stack.join("compose.yml");
    fs::write(&file, &text).unwrap();
    let directory = PathBuf::from("/srv/stack");
    let imported = import(&ImportOptions { file, directory, ..ImportOptions::default() });
    let imported = imported.unwrap_or_else(|error| panic!("what was exported is not imported: {error}\n{text}"));
    assert_eq!(imported.counts.services, described.len().max(imported.counts.services));
}

/// That a service is in YAML what it is in the description, for the parts that are texts of the user's own.
fn says(one: &YamlNode, service: &ServiceConfig) {
    let text = |node: &YamlNode| match &node.value {
        YamlValue::Scalar { text, .. } => text.replace("$$", "$"),
        other => panic!("{other:?} is not a text"),
    };
    let list = |key: &str| match one.get(key).map(|entry| &entry.value.value) {
        None => Vec::new(),
        Some(YamlValue::List(items)) => items.iter().map(|item| text(&item.value)).collect(),
        Some(other) => panic!("{key}: {other:?}"),
    };
    for (key, expected) in [
        ("command", &service.command),
        ("env_file", &service.environment_files),
        ("ports", &service.ports),
        ("volumes", &service.volumes),
        ("tmpfs", &service.tmpfs),
        ("extra_hosts", &service.extra_hosts),
        ("cap_add", &service.cap_add),
        ("cap_drop", &service.cap_drop),
    ] {
        assert_eq!(&list(key), expected, "{key}");
    }
    for (key, expected) in [("environment", &service.environment), ("labels", &service.labels)] {
        for (name, value) in expected {
            let map = &one.get(key).expect("the map is there").value;
            assert_eq!(&text(&map.get(name).expect("the name is there").value), value, "{key}: {name}");
        }
    }
    for (key, expected) in [
        ("user", &service.user),
        ("working_dir", &service.working_dir),
        ("hostname", &service.hostname),
        ("stop_signal", &service.stop_signal),
    ] {
        assert_eq!(one.get(key).map(|entry| text(&entry.value)).as_ref(), expected.as_ref(), "{key}");
    }
}
