//! Borders of closure layers that move only when asked: `plan.lock.json`.
//!
//! [`split`](super::closure_split::split) looks at all images of a stack, so an image's layers, and its digest, may change because
//! *another* image comes to share something. A plan lock has the layers of each image as they were planned once, as names of
//! packages. With it an image's layers are a function of its own closure and of the lock:
//!
//! - A package that the lock has lies in its layer, whatever its version is by now. One that is gone leaves its place.
//! - Packages that it does not have come above the libraries, in one layer of their own, or with the highest of them while they
//!   are small; what nothing refers to, a new app, lies on top.
//!
//! ```json
//! { "images": { "redis": [["glibc"], ["openssl", "systemd"], ["redis"]] }, "version": 1 }
//! ```
//!
//! Layers that several images have in the lock are the same layers as long as the packages in them are the same, and are written
//! once, as before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::closure_split::{ClosurePart, MIN_SIZE, join, part_of};
use crate::nix::closure::ClosureGraph;
use crate::nix::store_path::StorePath;

/// The layers of an image's closure, bottom first, as names of packages ([`package`]).
pub type ClosureLayers = Vec<Vec<String>>;

/// `plan.lock.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanLock {
    version: u32,
    /// By the short name of the image in the stack.
    images: BTreeMap<String, ClosureLayers>,
}

impl PlanLock {
    /// A lock of these images, with the store paths of their closures' layers.
    pub fn new<'a>(images: impl IntoIterator<Item = (String, &'a Vec<Vec<StorePath>>)>) -> Self {
        let images = images.into_iter().map(|(name, layers)| {
            // A package with several store paths is where most others need it, at the lowest of its places.
            let mut known = BTreeSet::new();
            let mut packages = |paths: &Vec<StorePath>| -> Vec<String> {
                paths.iter().map(|path| package(path.name())).filter(|name| known.insert(name.clone())).collect()
            };
            let layers = layers.iter().map(&mut packages).filter(|layer| !layer.is_empty());
            (name, layers.collect())
        });
        Self { version: 1, images: images.collect() }
    }
}

/// The name of a package without what changes at an update: the words of a store path's name that do not begin with a digit,
/// without the digits in them. `python3.13-numpy-2.1.3` is `python-numpy`, `gcc-14.2.0-lib` is `gcc-lib`.
#[must_use]
pub(crate) fn package(name: &str) -> String {
    let mut words = Vec::new();
    for (n, word) in name.split('-').enumerate() {
        if n == 0 || !word.starts_with(|c: char| c.is_ascii_digit()) {
            words.push(word.replace(|c: char| c.is_ascii_digit() || c == '.', ""));
        }
    }
    words.retain(|word| !word.is_empty());
    // A name of digits alone stays what it is.
    if words.is_empty() { name.to_owned() } else { words.join("-") }
}

/// The layers of one closure by the lock, bottom first; `max_layers` of them at most.
pub(super) fn split_locked(
    graph: &ClosureGraph,
    closure: &BTreeSet<StorePath>,
    layers: &[Vec<String>],
    max_layers: usize,
) -> Vec<ClosurePart> {
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (n, layer) in layers.iter().enumerate() {
        for (at, name) in layer.iter().enumerate() {
            places.entry(name).or_insert((n, at));
        }
    }
    let referrers = graph.referrer_counts(closure);
    let is_app = |path: &StorePath| referrers.get(path).is_none_or(|&count| count == 0);
    // Where apps begin, what is new lies below: of the layers in the lock, those above all that anything refers to.
    let place = |path: &StorePath| places.get(&*package(path.name())).copied();
    let apps = closure.iter().filter(|path| !is_app(path)).filter_map(place).map(|(n, _)| n + 1).max().unwrap_or(0);
    let mut slots: BTreeMap<(usize, bool), Vec<(usize, &StorePath)>> = BTreeMap::new();
    for path in closure {
        let (slot, at) = match place(path) {
            // `false` sorts before `true`: what is new lies below the layer of the same number.
            Some((n, at)) => ((n, true), at),
            None if is_app(path) => ((layers.len(), true), 0),
            None => ((apps, false), 0),
        };
        slots.entry(slot).or_default().push((at, path));
    }
    let mut parts: Vec<ClosurePart> = Vec::new();
    for ((_, known), mut paths) in slots {
        paths.sort_by_cached_key(|(at, path)| {
            let content = graph.get(path).map(|info| (info.nar_size, info.nar_hash.to_string()));
            (*at, path.name().to_owned(), content, (*path).clone())
        });
        let part = part_of(graph, paths.into_iter().map(|(_, path)| path.clone()).collect());
        let is_small = !known && part.size < MIN_SIZE;
        parts.push(part);
        if is_small && parts.len() > 1 {
            let below = parts.len() - 2;
            join(&mut parts, below);
        }
    }
    while parts.len() > max_layers.max(1) {
        let pairs = parts.windows(2).enumerate().map(|(at, pair)| (pair[0].size + pair[1].size, at));
        let Some((_, at)) = pairs.min() else { break };
        join(&mut parts, at);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::closure_split::{SplitRequest, split};
    use super::*;
    use crate::nix::store_path::{StoreDir, nixbase32};
    use crate::oci::digest::Digest;

    /// A graph from (name, megabytes, references by index).
    fn graph(nodes: &[(&str, u64, &[usize])]) -> (ClosureGraph, Vec<StorePath>) {
        let path = |n: usize| {
            let hash = nixbase32::encode(&Digest::of(nodes[n].0.as_bytes()).as_bytes()[..20]);
            format!("/nix/store/{hash}-{}", nodes[n].0)
        };
        let info = |n: usize| {
            let (name, megabytes, references) = nodes[n];
            let references: Vec<String> = references.iter().map(|&n| path(n)).collect();
            let hash = Digest::of(name.as_bytes()).to_string();
            serde_json::json!({"path": path(n), "narHash": hash, "narSize": megabytes * 1_000_000, "references": references})
        };
        let store = StoreDir::default();
        let infos = (0..nodes.len()).map(info).collect();
        let graph = ClosureGraph::from_value(&store, &serde_json::Value::Array(infos)).unwrap();
        (graph, (0..nodes.len()).map(|n| store.parse(&path(n)).unwrap()).collect())
    }

    fn names(parts: &[ClosurePart]) -> Vec<String> {
        parts.iter().map(|part| part.paths.iter().map(StorePath::name).collect::<Vec<_>>().join(" ")).collect()
    }

    fn layers(text: &[&str]) -> ClosureLayers {
        text.iter().map(|layer| layer.split(' ').map(str::to_owned).collect()).collect()
    }

    fn planned(nodes: &[(&str, u64, &[usize])], locked: &[&str], max_layers: usize) -> Vec<String> {
        let (graph, paths) = graph(nodes);
        let closure = paths.into_iter().collect();
        names(&split_locked(&graph, &closure, &layers(locked), max_layers))
    }

    #[test]
    fn packages_are_known_at_every_version() {
        for (name, expected) in [
            ("glibc-2.41", "glibc"),
            ("python3.13-numpy-2.1.3", "python-numpy"),
            ("gcc-14.2.0-lib", "gcc-lib"),
            ("gcc-15.1.0-lib", "gcc-lib"),
            ("redis.sh", "redissh"),
            ("source", "source"),
            ("foo-unstable-2024-01-01", "foo-unstable"),
            ("2048", "2048"),
        ] {
            assert_eq!(package(name), expected);
        }
    }

    #[test]
    fn what_the_lock_has_stays_what_is_new_lies_above_it_and_a_new_app_on_top() {
        let locked = &["glibc", "zlib openssl", "redis"];
        let nodes: &[(&str, u64, &[usize])] =
            &[("glibc-2.42", 30, &[]), ("openssl-4.0", 6, &[0]), ("zlib-1.4", 1, &[0]), ("redis-9.0", 5, &[1, 2])];
        assert_eq!(planned(nodes, locked, 20), ["glibc-2.42", "zlib-1.4 openssl-4.0", "redis-9.0"]);
        let new: &[(&str, u64, &[usize])] =
            &[("glibc-2.42", 30, &[]), ("jemalloc-5", 5, &[0]), ("openssl-4.0", 6, &[0]), ("redis-9.0", 5, &[1, 2])];
        assert_eq!(planned(new, locked, 20), ["glibc-2.42", "openssl-4.0", "jemalloc-5", "redis-9.0"]);
        // A small one lies with the highest of the libraries.
        let small: &[(&str, u64, &[usize])] =
            &[("glibc-2.42", 30, &[]), ("lz4-1", 1, &[0]), ("openssl-4.0", 6, &[0]), ("valkey-9.0", 5, &[1, 2])];
        assert_eq!(planned(small, locked, 20), ["glibc-2.42", "openssl-4.0 lz4-1", "valkey-9.0"]);
        assert_eq!(planned(nodes, locked, 2), ["glibc-2.42", "zlib-1.4 openssl-4.0 redis-9.0"]);
        assert_eq!(planned(nodes, &[], 20), ["glibc-2.42 openssl-4.0 zlib-1.4", "redis-9.0"]);
    }

    proptest! {
        #[test]
        fn a_plan_that_was_just_locked_is_the_same_and_no_other_image_has_a_say(
            seed in proptest::collection::vec((0u64..12, proptest::collection::vec(0usize..40, 0..4)), 2..40),
            roots in proptest::collection::vec(0usize..40, 2..4), max in 1usize..8
        ) {
            let letters = |n: usize| format!("{}{}x", char::from(b'a' + (n / 26) as u8), char::from(b'a' + (n % 26) as u8));
            let labels: Vec<String> = (0..seed.len()).map(letters).collect();
            let references: Vec<Vec<usize>> = seed.iter().enumerate()
                .map(|(n, (_, refs))| refs.iter().copied().filter(|&r| r < n).collect()).collect();
            let nodes: Vec<(&str, u64, &[usize])> =
                (0..seed.len()).map(|n| (labels[n].as_str(), seed[n].0, references[n].as_slice())).collect();
            let (graph, paths) = graph(&nodes);
            let mut requests: Vec<SplitRequest> = roots.iter().map(|&r| {
                let closure = graph.closure_of([&paths[r % paths.len()]]).unwrap();
                SplitRequest { closure, max_layers: max, locked: None }
            }).collect();
            let of = |plans: Vec<Vec<ClosurePart>>| -> Vec<Vec<Vec<StorePath>>> {
                plans.into_iter().map(|parts| parts.into_iter().map(|part| part.paths).collect()).collect()
            };
            let free = of(split(&graph, &requests));
            let names = (0..free.len()).map(|n| n.to_string());
            let lock = PlanLock::new(names.zip(&free));
            for (n, request) in requests.iter_mut().enumerate() {
                request.locked = Some(lock.images[&n.to_string()].clone());
            }
            let locked = of(split(&graph, &requests));
            prop_assert_eq!(&locked, &free);
            let alone = of(split(&graph, &requests[..1]));
            prop_assert_eq!(&alone[0], &locked[0]);
        }
    }
}
