//! Recipes of layers: what is taken is written and read again as the same. One that needs no file of the machine makes the
//! same archive each time, as large as it is measured, in order, and windlass itself can unpack it.

use std::fs::File;
use std::io;
use std::path::Component;

use windlass::internals::disk::pipe::{PipeError, Readers};
use windlass::internals::disk::progress::Progress;
use windlass::internals::layer::{Input, LayerError, Recipe, Sink, digest_of, measure};
use windlass::internals::oci::canonical;
use windlass::internals::oci::digest::Digest;

use super::{jail, unpack};

struct Bytes(Vec<u8>);

impl Sink for Bytes {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend(bytes);
        Ok(())
    }

    fn file(&mut self, _: &File, _: u64, _: bool, _: Readers<'_>) -> Result<(), PipeError> {
        unreachable!("a recipe without sources reads no file")
    }
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Ok(recipe) = serde_json::from_slice::<Recipe>(data) else { return false };
    let json = canonical::to_bytes(&recipe);
    assert_eq!(serde_json::from_slice::<Recipe>(&json).unwrap(), recipe);
    let own = recipe.inputs.iter().filter_map(|input| match input {
        Input::Directory { path, .. } | Input::Symlink { path, .. } | Input::Text { path, .. } => Some(path),
        _ => None,
    });
    for path in recipe.sources().into_iter().chain(recipe.targets()).chain(own) {
        assert!(path.is_absolute() && !path.components().any(|part| part == Component::ParentDir), "{path:?}");
    }
    if recipe.sources().is_empty() && !recipe.inputs.iter().any(|input| matches!(input, Input::Blob { .. })) {
        makes(&recipe);
    }
    true
}

fn makes(recipe: &Recipe) {
    let mut made = Bytes(Vec::new());
    let mut names: Vec<Vec<u8>> = Vec::new();
    let listed = recipe.members(&mut |member| {
        names.push(member.entry.path.clone());
        Ok::<(), LayerError>(())
    });
    if recipe.stream(&mut made).is_err() {
        return;
    }
    listed.expect("what is streamed can be listed");
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "the members are not in order, or one is there twice");
    let hashed = digest_of(recipe, None, &Progress::new()).expect("it was made once");
    assert_eq!((hashed.digest, hashed.size), (Digest::of(&made.0), made.0.len() as u64));
    assert_eq!(measure(recipe).unwrap(), hashed.size);
    let archive = made.0;
    // What no file system can have, and what in an archive is a mark of something else.
    let steps = |name: &[u8]| name.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let usual = |step: &Vec<u8>| step.len() < 256 && !step.starts_with(b".wh.");
    if archive.len() < 1 << 19 && names.iter().all(|name| name.len() < 2000 && steps(name).iter().all(usual)) {
        assert!(
            jail::run(move |workplace| unpack::is_unpacked(&archive, workplace)),
            "our own archive is not unpacked"
        );
    }
}
