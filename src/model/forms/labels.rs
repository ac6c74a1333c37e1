//! What a model's image says of it: labels of its config, and the same as annotations of its manifest.

use std::collections::BTreeMap;

use crate::model::read::facts::Facts;

/// The licence, as an expression of SPDX (image-spec, *annotations.md*).
pub(crate) const LICENCES: &str = "org.opencontainers.image.licenses";
/// Names of the models in an image, with commas between them.
pub(crate) const MODELS: &str = "org.windlass.models";
/// How RamaLama knows an image of a model alone.
const RAMALAMA: (&str, &str) = ("org.containers.type", "ai.image.model.raw");
/// What is longer is not a label, but a text.
const LONGEST: usize = 500;

/// What the image of the model `name` says of itself.
#[must_use]
pub(crate) fn labels(name: &str, facts: &Facts) -> BTreeMap<String, String> {
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let of_oci = [
        ("title", facts.name.clone().or_else(|| Some(name.to_owned()))),
        ("version", facts.version.clone()),
        ("licenses", facts.licence.clone()),
        ("vendor", facts.vendor.clone()),
        ("source", facts.source.clone()),
    ];
    let of_ours = [
        ("architecture", facts.architecture.clone()),
        ("parameters", number(Some(facts.parameters))),
        ("quantization", facts.quantization.clone()),
        ("context-length", number(facts.context_length)),
        ("embedding-length", number(facts.embedding_length)),
        ("format", Some(facts.format.as_str().to_owned())),
        ("chat-template", facts.chat_template.map(|digest| digest.to_string())),
    ];
    let named =
        |prefix: &'static str| move |(key, value): (&str, Option<String>)| Some((format!("{prefix}.{key}"), value?));
    let all = of_oci.into_iter().filter_map(named("org.opencontainers.image"));
    let all = all.chain(of_ours.into_iter().filter_map(named("org.windlass.model")));
    let fits = |(_, value): &(String, String)| value.len() <= LONGEST && !value.chars().any(char::is_control);
    all.filter(fits).chain([(RAMALAMA.0.to_owned(), RAMALAMA.1.to_owned())]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_known_and_fits_is_said() {
        let facts = json!({ "format": "gguf", "parameters": 7, "contextLength": 8192, "licence": "MIT", "vendor": "a\nb",
            "source": "x".repeat(501) });
        let expected = json!({ "org.containers.type": "ai.image.model.raw", "org.opencontainers.image.licenses": "MIT",
            "org.opencontainers.image.title": "tiny", "org.windlass.model.context-length": "8192",
            "org.windlass.model.format": "gguf", "org.windlass.model.parameters": "7" });
        assert_eq!(json!(labels("tiny", &serde_json::from_value(facts).unwrap())), expected);
    }
}
