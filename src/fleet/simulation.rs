//! Which bytes each host receives and writes.
//!
//! A host has the state that it took last and the one before it, as a host with a generation to go back to has. An update brings
//! it what these two lack.
//!
//! | route | received | written |
//! |---|---|---|
//! | registry | blobs that it lacks, and the manifest and config of images that changed | layers whose chain is new: Podman stores a layer again when one below it changed |
//! | registry, zstd | the same, packed | the same |
//! | Nix binary cache | NARs of store paths that it lacks; for windlass the lean image directory besides, for `buildImage` the whole archive, which is a store path of its own | these, and what the tool then hands to the engine: nothing where windlass links, else layers whose chain is new |
//! | bundle | for windlass what `export --bundle --since` leaves over the state that the host has; for the others the whole archives of the images that changed | for windlass blobs that it lacks, as the linked store gives the files of a known archive a second name; for the others layers whose chain is new |

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::history::{FleetGroup, FleetHistory};
use super::schemes::{LayerScheme, SchemeImage, SchemeVersion, arrange};
use crate::nix::store_path::StorePath;
use crate::oci::digest::Digest;

/// A way to the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FleetRoute {
    Registry,
    RegistryZstd,
    BinaryCache,
    Bundle,
}

impl FleetRoute {
    /// All of them, in the order of tables.
    pub(crate) const ALL: [Self; 4] = [Self::Registry, Self::RegistryZstd, Self::BinaryCache, Self::Bundle];

    /// For tables.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::RegistryZstd => "registry, zstd",
            Self::BinaryCache => "binary cache",
            Self::Bundle => "bundle",
        }
    }
}

/// How large a fleet is, and how it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FleetRequest {
    pub(crate) hosts: u32,
    /// Another number, other updates that hosts leave out.
    pub(crate) seed: u64,
    /// How many of a hundred updates each host leaves out, in the place of what its group says.
    pub(crate) skips: Option<u8>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetBytes {
    /// That came over the network, or on a stick.
    pub(crate) received: u64,
    /// That were written to the disk.
    pub(crate) written: u64,
}

impl FleetBytes {
    fn add(&mut self, other: Self) {
        self.received += other.received;
        self.written += other.written;
    }
}

/// What a scheme costs on a route.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetCost {
    pub(crate) scheme: LayerScheme,
    pub(crate) route: FleetRoute,
    /// What all hosts receive and write for the first version.
    pub(crate) first: FleetBytes,
    /// The same for all updates.
    pub(crate) updates: FleetBytes,
    /// The host that all updates cost most.
    pub(crate) most: FleetBytes,
    /// For each version what all hosts receive and write then, the first one included.
    pub(crate) versions: Vec<FleetBytes>,
}

/// A host before or after an update: the version that it took last, and the one before that.
type Held = [Option<usize>; 2];

/// What each scheme costs on each route. A route for which the history lacks sizes is left out.
pub(crate) fn simulate(history: &FleetHistory, request: FleetRequest) -> Vec<FleetCost> {
    let shares = shares(&history.groups, request.hosts);
    let mut costs = Vec::new();
    for scheme in LayerScheme::ALL {
        let versions: Vec<SchemeVersion> =
            history.versions.iter().map(|version| arrange(history, version, scheme)).collect();
        for route in FleetRoute::ALL {
            let all = || versions.iter().flat_map(|version| version.values()).flat_map(|image| &image.layers);
            if route == FleetRoute::RegistryZstd && all().any(|layer| layer.zstd.is_none()) {
                continue;
            }
            let mut cost = FleetCost {
                scheme,
                route,
                first: FleetBytes::default(),
                updates: FleetBytes::default(),
                most: FleetBytes::default(),
                versions: vec![FleetBytes::default(); versions.len()],
            };
            let mut number = 0;
            for (group, hosts) in history.groups.iter().zip(&shares) {
                let world = World { history, group, versions: &versions, scheme, route };
                let mut known = BTreeMap::new();
                for _ in 0..*hosts {
                    number += 1;
                    world.host(number, request, &mut known, &mut cost);
                }
            }
            costs.push(cost);
        }
    }
    costs
}

/// How many hosts each group has: what is left over goes to the first ones.
pub(crate) fn shares(groups: &[FleetGroup], hosts: u32) -> Vec<u32> {
    let sum: u64 = groups.iter().map(|group| u64::from(group.share)).sum();
    let part = |group: &FleetGroup| u64::from(hosts) * u64::from(group.share) / sum.max(1);
    let mut parts: Vec<u32> = groups.iter().map(|group| u32::try_from(part(group)).unwrap_or(hosts)).collect();
    let mut left = hosts - parts.iter().sum::<u32>();
    for (part, group) in parts.iter_mut().zip(groups) {
        if left > 0 && group.share > 0 {
            (*part, left) = (*part + 1, left - 1);
        }
    }
    parts
}

/// All that a host of a group sees.
struct World<'a> {
    history: &'a FleetHistory,
    group: &'a FleetGroup,
    versions: &'a [SchemeVersion],
    scheme: LayerScheme,
    route: FleetRoute,
}

impl World<'_> {
    /// One host through the whole history.
    fn host(
        &self,
        number: u32,
        request: FleetRequest,
        known: &mut BTreeMap<(Held, usize), FleetBytes>,
        cost: &mut FleetCost,
    ) {
        let skips = request.skips.unwrap_or(self.group.skips);
        let (mut held, mut own): (Held, _) = ([None, None], FleetBytes::default());
        for version in 0..self.versions.len() {
            if version > 0 && left_out(request.seed, number, version, skips) {
                continue;
            }
            let bytes = *known.entry((held, version)).or_insert_with(|| self.step(held, version));
            cost.versions[version].add(bytes);
            if version == 0 {
                cost.first.add(bytes);
            } else {
                cost.updates.add(bytes);
                own.add(bytes);
            }
            held = [Some(version), held[0]];
        }
        if own.received > cost.most.received {
            cost.most = own;
        }
    }

    /// The images of this group at a version.
    fn images(&self, version: usize) -> impl Iterator<Item = (&String, &SchemeImage)> {
        self.versions[version].iter().filter(|(name, _)| self.group.images.contains(*name))
    }

    fn step(&self, held: Held, to: usize) -> FleetBytes {
        let states = || held.iter().flatten().copied();
        let there = || states().flat_map(|version| self.images(version).map(|(_, image)| image));
        let mut blobs: BTreeSet<Digest> = there().flat_map(|image| &image.layers).map(|layer| layer.blob).collect();
        let mut chains: BTreeSet<Digest> = there().flat_map(chains_of).collect();
        let mut paths: BTreeSet<&StorePath> = there().flat_map(|image| &image.paths).collect();
        let known: BTreeSet<Digest> = there().map(|image| image.identity).collect();
        // A delta is made over one state, which is the last that the host took.
        let since: Option<usize> = held[0];
        let mut expected: BTreeSet<Digest> = since
            .iter()
            .flat_map(|version| self.images(*version))
            .flat_map(|(_, image)| &image.layers)
            .map(|layer| layer.blob)
            .collect();
        let mut bytes = FleetBytes::default();
        for (_, image) in self.images(to) {
            if known.contains(&image.identity) {
                continue;
            }
            let ours = self.scheme == LayerScheme::Windlass;
            bytes.received += match self.route {
                FleetRoute::BinaryCache if ours => image.lean_size,
                _ => image.manifest_size,
            };
            let (mut new_chains, mut new_blobs, mut new_packed, mut whole, mut delta) = (0, 0, 0, 0, 0);
            for (layer, chain) in image.layers.iter().zip(chains_of(image)) {
                whole += layer.size;
                if chains.insert(chain) {
                    new_chains += layer.size;
                }
                if blobs.insert(layer.blob) {
                    new_blobs += layer.size;
                    new_packed += layer.zstd.unwrap_or(0);
                }
                if expected.insert(layer.blob) {
                    delta += layer.size;
                }
            }
            let mut new_paths = 0;
            for path in &image.paths {
                if paths.insert(path) {
                    new_paths += self.history.sizes.get(path).map_or(0, |sizes| sizes.nar);
                }
            }
            bytes.add(match (self.route, self.scheme) {
                (FleetRoute::Registry, _) => FleetBytes { received: new_blobs, written: new_chains },
                (FleetRoute::RegistryZstd, _) => FleetBytes { received: new_packed, written: new_chains },
                (FleetRoute::BinaryCache, LayerScheme::Windlass) => {
                    FleetBytes { received: new_paths, written: new_paths + image.lean_size }
                }
                (FleetRoute::BinaryCache, LayerScheme::OneLayer) => {
                    FleetBytes { received: whole, written: whole + new_chains }
                }
                (FleetRoute::BinaryCache, _) => FleetBytes { received: new_paths, written: new_paths + new_chains },
                (FleetRoute::Bundle, LayerScheme::Windlass) => FleetBytes { received: delta, written: new_blobs },
                (FleetRoute::Bundle, _) => FleetBytes { received: whole, written: new_chains },
            });
        }
        bytes
    }
}

/// What containers-storage calls the layers of an image: the lowest by itself, each other by all below it too.
fn chains_of(image: &SchemeImage) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    let next = |blob: Digest, below: Option<Digest>| match below {
        Some(below) => Digest::of(format!("{below}+{blob}").as_bytes()),
        None => blob,
    };
    image
        .layers
        .iter()
        .map(|layer| {
            let here = next(layer.blob, chain);
            chain = Some(here);
            here
        })
        .collect()
}

/// Whether a host leaves out an update: the same answer everywhere, and no clock.
fn left_out(seed: u64, host: u32, version: usize, percent: u8) -> bool {
    let digest = Digest::of(format!("{seed} {host} {version}").as_bytes());
    let drawn = digest.as_bytes().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    drawn % 100 < u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(share: u32) -> FleetGroup {
        FleetGroup { title: String::new(), share, images: BTreeSet::new(), skips: 0 }
    }

    #[test]
    fn every_host_is_in_a_group() {
        for (given, hosts, expected) in [
            (&[1, 1, 1][..], 10, &[4, 3, 3][..]),
            (&[3, 1], 1000, &[750, 250]),
            (&[0, 1], 5, &[0, 5]),
            (&[5, 5], 1, &[1, 0]),
        ] {
            let groups: Vec<FleetGroup> = given.iter().map(|share| group(*share)).collect();
            assert_eq!(shares(&groups, hosts), expected, "{given:?}");
        }
    }

    #[test]
    fn hosts_leave_out_about_as_many_as_they_should() {
        for percent in [0, 20, 100] {
            let all = (0..100).flat_map(|host| (0..100).map(move |version| (host, version)));
            let out = all.filter(|(host, version)| left_out(1, *host, *version, percent)).count();
            assert!(out.abs_diff(usize::from(percent) * 100) < 150, "{percent}: {out}");
        }
    }
}
