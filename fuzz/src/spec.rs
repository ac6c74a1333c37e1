//! Specs of what is built: no panic; what is taken names images and models that can be named, and its services can be run.

use std::path::Path;

use windlass::internals::oci::reference::Reference;
use windlass::internals::spec::Spec;

use super::stays_inside;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(spec) = Spec::parse(text) else { return false };
    let named = |name: &str, tag: Option<&str>| {
        let reference = Reference::new(name, tag.unwrap_or("0")).expect("a spec that was taken has a name");
        stays_inside(Path::new(&*reference.repository().file_name()));
    };
    match &spec {
        Spec::Image(image) => {
            named(&image.name, image.tag.as_deref());
            drop(image.roots());
        }
        Spec::Upstream(image) => named(&image.name, image.tag.as_deref()),
        Spec::Oci(image) => named(&image.name, image.tag.as_deref()),
        Spec::Index(index) => named(&index.name, index.tag.as_deref()),
        Spec::Stack(stack) => {
            stack.images.iter().for_each(|image| named(&image.name, image.tag.as_deref()));
            for service in stack.services.values() {
                service.check().expect("a spec that was taken has services that can be run");
                service.check_text().expect("a spec that was taken has texts that can be written");
            }
        }
        Spec::Ollama(ollama) => assert!(ollama.directory.is_absolute() && !ollama.models.is_empty()),
        Spec::Model(_) | Spec::Layer(_) => {}
    }
    true
}
