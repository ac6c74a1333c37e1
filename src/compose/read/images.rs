//! The images of a compose file, and nothing else of it.

use super::variables::interpolate;
use super::yaml::{MERGED, YamlValue};
use super::{ComposeImportError, ImportOptions, whole};

/// A service and the image that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceImage {
    /// The service.
    pub(crate) service: String,
    /// The image's reference; `None` if the service is built from a folder.
    pub(crate) image: Option<String>,
}

/// Reads them, with variables and `extends` resolved, in the order of the file; profiles do not matter.
///
/// # Errors
/// See [`ComposeImportError`]. A reference with a variable that has no value is an error: it would be another image.
pub(crate) fn images(options: &ImportOptions) -> Result<Vec<ServiceImage>, ComposeImportError> {
    let whole = whole(options)?;
    let Some(YamlValue::Map(services)) = whole.root.get("services").map(|entry| &entry.value.value) else {
        return Ok(Vec::new());
    };
    let mut images = Vec::new();
    for entry in services.iter().filter(|entry| entry.key != MERGED) {
        let service = entry.key.clone();
        let Some(image) = entry.value.get("image").map(|entry| &entry.value).filter(|node| !node.is_null()) else {
            images.push(ServiceImage { service, image: None });
            continue;
        };
        let wrong = |message: String| ComposeImportError::Shape {
            file: whole.files[image.mark.file].clone(),
            mark: image.mark,
            path: format!("services.{service}.image"),
            message,
        };
        let YamlValue::Scalar { text, .. } = &image.value else {
            return Err(wrong(format!("expected a string, found {}", image.kind())));
        };
        let text = interpolate(text, &whole.variables).map_err(wrong)?;
        if let Some(name) = text.required.keys().chain(&text.unset).next() {
            return Err(wrong(format!("no value for {name}; give it with --env-file")));
        }
        images.push(ServiceImage { service, image: Some(text.value) });
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_variables_and_extends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        let options =
            ImportOptions { file: file.clone(), directory: folder.path().to_owned(), ..ImportOptions::default() };
        let text = "services:\n  a: { image: \"redis:${TAG:-8}\" }\n  b: { extends: a }\n  c: { build: . }\n  d:\n    image: x:${VERSION}\n";
        std::fs::write(&file, text).unwrap();
        let error = images(&options).unwrap_err().to_string();
        assert!(
            error.ends_with("compose.yaml:6:12: services.d.image: no value for VERSION; give it with --env-file"),
            "{error}"
        );
        std::fs::write(folder.path().join(".env"), "VERSION=1").unwrap();
        let found = images(&options).unwrap();
        let found: Vec<_> = found.iter().map(|found| (found.service.as_str(), found.image.as_deref())).collect();
        assert_eq!(found, [("a", Some("redis:8")), ("b", Some("redis:8")), ("c", None), ("d", Some("x:1"))]);
    }
}
