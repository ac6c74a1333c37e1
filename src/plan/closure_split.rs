//! How closures are split into layers.
//!
//! containers-storage names a layer by its chain: the same blob above a changed parent is unpacked and stored again. So
//! it matters which store paths share a layer, and in which order the layers lie:
//!
//! 1. **Shared first.** Paths that the same set of images needs form a group. Groups of more images lie lower, then
//!    larger ones, so that images have as long a common beginning as they can. A shared group below [`MIN_SIZE`] is not
//!    worth a layer: each of its images gets a copy among what it alone needs.
//! 2. **Stable first.** In Nix a change reaches everything that refers to the changed path. Inside a group paths lie in
//!    the order of how many others refer to them, directly or not, so a change rewrites what is above it and nothing
//!    below: glibc at the bottom, the app on top. Ties break by name, then by content, never by store hash: a rebuild
//!    does not reshuffle.
//! 3. **Not too small, not too many.** Neighbours are joined, smallest first, until no layer is below [`MIN_SIZE`] and
//!    no image has more than it may. Joining is local: a path that appears or grows moves the borders near it only.
//! 4. **The app by itself.** What nothing else refers to is what changes at every version. It is not joined with what
//!    lies below, however small it is: a new start script must not rewrite the libraries it starts.
//!
//! A closure whose layers were planned before ([`plan_lock`](super::plan_lock)) is left out of all that.
//!
//! Reproducibility: a pure function of the graph, the closures, their order, their limits and the plan lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::plan_lock::{ClosureLayers, split_locked};
use crate::nix::closure::ClosureGraph;
use crate::nix::store_path::StorePath;

/// Layers below this many bytes (4 MB, of NAR size) are joined with a neighbour.
pub(crate) const MIN_SIZE: u64 = 4_000_000;

/// One image's closure, as the split needs it.
#[derive(Debug, Clone)]
pub struct SplitRequest {
    /// The store paths to split.
    pub closure: BTreeSet<StorePath>,
    /// Layers it may be split into at most; 1 or more.
    pub max_layers: usize,
    /// Its layers in the plan lock, if there is one.
    pub locked: Option<ClosureLayers>,
}

/// Store paths that share a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosurePart {
    /// The paths, those that most others refer to first.
    pub paths: Vec<StorePath>,
    /// Sum of their NAR sizes in bytes.
    pub(crate) size: u64,
    /// Which requests have this very part, by index.
    pub(crate) users: BTreeSet<usize>,
}

/// Splits all closures at once; for each request its parts, bottom first.
#[must_use]
pub fn split(graph: &ClosureGraph, requests: &[SplitRequest]) -> Vec<Vec<ClosurePart>> {
    let mut plans: Vec<Vec<ClosurePart>> = vec![Vec::new(); requests.len()];
    let (free, locked): (Vec<_>, Vec<_>) = (0..requests.len()).partition(|&n| requests[n].locked.is_none());
    let together: Vec<&SplitRequest> = free.iter().map(|&n| &requests[n]).collect();
    for (n, parts) in free.into_iter().zip(split_together(graph, &together)) {
        plans[n] = parts;
    }
    for &n in &locked {
        let SplitRequest { closure, max_layers, locked } = &requests[n];
        plans[n] = split_locked(graph, closure, locked.as_deref().unwrap_or_default(), *max_layers);
    }
    let mut users: BTreeMap<Vec<StorePath>, BTreeSet<usize>> = BTreeMap::new();
    for &n in &locked {
        plans[n].iter().for_each(|part| {
            users.entry(part.paths.clone()).or_default().insert(n);
        });
    }
    for n in locked {
        plans[n].iter_mut().for_each(|part| part.users.clone_from(&users[&part.paths]));
    }
    plans
}

/// Splits closures so that what they share lies in the same layers.
fn split_together(graph: &ClosureGraph, requests: &[&SplitRequest]) -> Vec<Vec<ClosurePart>> {
    let mut groups = group(graph, requests);
    for (n, request) in requests.iter().enumerate() {
        while groups.keys().filter(|users| users.contains(&n)).count() > request.max_layers {
            let size = |paths: &BTreeSet<StorePath>| total(graph, paths);
            let shared = groups.iter().filter(|(users, _)| users.len() > 1 && users.contains(&n));
            let Some(smallest) =
                shared.min_by_key(|(users, paths)| (size(paths), (*users).clone())).map(|(users, _)| users.clone())
            else {
                break;
            };
            dissolve(&mut groups, &smallest);
        }
    }

    let everything: BTreeSet<StorePath> = requests.iter().flat_map(|request| request.closure.iter().cloned()).collect();
    let referrers = graph.referrer_counts(&everything);
    let mut groups: Vec<Vec<ClosurePart>> = groups
        .into_iter()
        .map(|(users, paths)| {
            let mut paths: Vec<StorePath> = paths.into_iter().collect();
            paths.sort_by_cached_key(|path| {
                let info = graph.get(path);
                let content = info.map(|info| (info.nar_size, info.nar_hash.to_string()));
                (Reverse(referrers.get(path).copied()), path.name().to_owned(), content, path.clone())
            });
            let single = |path: StorePath| ClosurePart { users: users.clone(), ..part_of(graph, vec![path]) };
            let is_app = |path: &StorePath| users.len() == 1 && referrers.get(path).is_none_or(|&count| count == 0);
            let (apps, libraries): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_app);
            let mut parts: Vec<ClosurePart> = libraries.into_iter().map(single).collect();
            join_small(&mut parts);
            let mut apps: Vec<ClosurePart> = apps.into_iter().map(single).collect();
            join_small(&mut apps);
            parts.append(&mut apps);
            parts
        })
        .collect();
    let weight = |parts: &[ClosurePart]| parts.iter().map(|part| part.size).sum::<u64>();
    groups.sort_by_key(|parts| (Reverse(parts[0].users.len()), Reverse(weight(parts)), parts[0].users.clone()));

    for (n, request) in requests.iter().enumerate() {
        while mine(&groups, n).map(|parts| parts.len()).sum::<usize>() > request.max_layers {
            let pairs = groups.iter().enumerate().filter(|(_, parts)| parts[0].users.contains(&n));
            let pairs = pairs.flat_map(|(g, parts)| {
                parts.windows(2).enumerate().map(move |(at, pair)| (pair[0].size + pair[1].size, g, at))
            });
            let Some((_, g, at)) = pairs.min() else { break };
            join(&mut groups[g], at);
        }
    }
    (0..requests.len()).map(|n| mine(&groups, n).flatten().cloned().collect()).collect()
}

type Groups = BTreeMap<BTreeSet<usize>, BTreeSet<StorePath>>;

/// The paths by the set of requests that need them; shared groups below the minimum are dissolved.
fn group(graph: &ClosureGraph, requests: &[&SplitRequest]) -> Groups {
    let mut users: BTreeMap<&StorePath, BTreeSet<usize>> = BTreeMap::new();
    for (n, request) in requests.iter().enumerate() {
        for path in &request.closure {
            users.entry(path).or_default().insert(n);
        }
    }
    let mut groups = Groups::new();
    for (path, users) in users {
        groups.entry(users).or_default().insert(path.clone());
    }
    let small =
        |(users, paths): &(&BTreeSet<usize>, &BTreeSet<StorePath>)| users.len() > 1 && total(graph, paths) < MIN_SIZE;
    let small: Vec<_> = groups.iter().filter(small).map(|(users, _)| users.clone()).collect();
    for users in small {
        dissolve(&mut groups, &users);
    }
    groups
}

/// Gives each user of a shared group a copy among what it alone needs.
fn dissolve(groups: &mut Groups, users: &BTreeSet<usize>) {
    let paths = groups.remove(users).unwrap_or_default();
    for &user in users {
        groups.entry(BTreeSet::from([user])).or_default().extend(paths.iter().cloned());
    }
}

fn mine(groups: &[Vec<ClosurePart>], n: usize) -> impl Iterator<Item = &Vec<ClosurePart>> {
    groups.iter().filter(move |parts| parts[0].users.contains(&n))
}

/// A part of these paths, of no request yet.
pub(super) fn part_of(graph: &ClosureGraph, paths: Vec<StorePath>) -> ClosurePart {
    ClosurePart { size: paths.iter().map(|path| size_of(graph, path)).sum(), paths, users: BTreeSet::new() }
}

fn size_of(graph: &ClosureGraph, path: &StorePath) -> u64 {
    graph.get(path).map_or(0, |info| info.nar_size)
}

fn total(graph: &ClosureGraph, paths: &BTreeSet<StorePath>) -> u64 {
    paths.iter().map(|path| size_of(graph, path)).sum()
}

/// Joins every part below the minimum with its smaller neighbour, the smallest part first.
fn join_small(parts: &mut Vec<ClosurePart>) {
    while parts.len() > 1 {
        let Some((at, _)) =
            parts.iter().enumerate().filter(|(_, part)| part.size < MIN_SIZE).min_by_key(|(_, part)| part.size)
        else {
            return;
        };
        let before = at.checked_sub(1).map(|before| parts[before].size);
        let after = parts.get(at + 1).map(|part| part.size);
        let with_before = after.is_none_or(|after| before.is_some_and(|before| before <= after));
        join(parts, if with_before { at - 1 } else { at });
    }
}

/// Joins the parts at `at` and `at + 1`.
pub(super) fn join(parts: &mut Vec<ClosurePart>, at: usize) {
    let upper = parts.remove(at + 1);
    parts[at].size += upper.size;
    parts[at].paths.extend(upper.paths);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nix::store_path::StoreDir;

    const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

    /// A graph from (name, megabytes, references by index). The hash of a path says nothing about its index.
    fn graph(nodes: &[(&str, u64, &[usize])], salt: usize) -> (ClosureGraph, Vec<StorePath>) {
        let base = |n: usize| {
            let hash: String = (0..32).map(|i| char::from(DIGITS[(n * 7 + i * (salt + 3) + salt) % 32])).collect();
            format!("/nix/store/{hash}-{}", nodes[n].0)
        };
        let json: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(n, (_, megabytes, references))| {
                let references: Vec<_> = references.iter().map(|&r| base(r)).collect();
                let hash = crate::oci::digest::Digest::of(nodes[n].0.as_bytes());
                serde_json::json!({"path": base(n), "narHash": hash.to_string(), "narSize": megabytes * 1_000_000, "references": references})
            })
            .collect();
        let store = StoreDir::default();
        let graph = ClosureGraph::from_value(&store, &serde_json::Value::Array(json)).unwrap();
        (graph, (0..nodes.len()).map(|n| store.parse(&base(n)).unwrap()).collect())
    }

    fn names(parts: &[ClosurePart]) -> Vec<String> {
        parts.iter().map(|part| part.paths.iter().map(StorePath::name).collect::<Vec<_>>().join(" ")).collect()
    }

    const STACK: &[(&str, u64, &[usize])] = &[
        ("glibc", 30, &[]),
        ("zlib", 1, &[0]),
        ("openssl", 6, &[0]),
        ("redis", 1, &[0, 2]),
        ("python", 60, &[0, 1, 2]),
        ("webui", 90, &[4]),
    ];

    fn request(graph: &ClosureGraph, root: &StorePath, max_layers: usize) -> SplitRequest {
        SplitRequest { closure: graph.closure_of([root]).unwrap(), max_layers, locked: None }
    }

    #[test]
    fn shared_paths_lie_below_in_the_same_order_and_the_app_on_top() {
        let (graph, paths) = graph(STACK, 1);
        let plans = split(&graph, &[request(&graph, &paths[3], 20), request(&graph, &paths[5], 20)]);
        assert_eq!(names(&plans[0]), ["glibc", "openssl", "redis"]);
        assert_eq!(names(&plans[1]), ["glibc", "openssl", "zlib python", "webui"]);
        assert_eq!(plans[0][..2], plans[1][..2]);
    }

    #[test]
    fn another_hash_changes_nothing() {
        let plan = |salt| {
            let (graph, paths) = graph(STACK, salt);
            names(&split(&graph, &[request(&graph, &paths[5], 20)])[0])
        };
        assert_eq!(plan(1), plan(5));
    }

    #[test]
    fn the_limit_is_kept_by_joining_the_smallest_neighbours() {
        let (graph, paths) = graph(STACK, 1);
        let plan = |max| names(&split(&graph, &[request(&graph, &paths[5], max)])[0]);
        assert_eq!(plan(3), ["glibc openssl zlib", "python", "webui"]);
        assert_eq!(plan(1), ["glibc openssl zlib python webui"]);
        let both = split(&graph, &[request(&graph, &paths[3], 1), request(&graph, &paths[5], 20)]);
        assert_eq!(names(&both[0]), ["glibc openssl redis"], "the shared group had to go");
    }

    proptest! {
        #[test]
        fn every_path_is_in_exactly_one_part_and_dependencies_lie_below(
            seed in proptest::collection::vec((0u64..12, proptest::collection::vec(0usize..40, 0..4)), 1..40),
            roots in proptest::collection::vec(0usize..40, 1..4), max in 1usize..8
        ) {
            let labels: Vec<String> = (0..seed.len()).map(|n| format!("p{n}")).collect();
            let references: Vec<Vec<usize>> = seed.iter().enumerate()
                .map(|(n, (_, refs))| refs.iter().copied().filter(|&r| r < n).collect()).collect();
            let nodes: Vec<(&str, u64, &[usize])> =
                (0..seed.len()).map(|n| (labels[n].as_str(), seed[n].0, references[n].as_slice())).collect();
            // Beyond 32 nodes the hashes repeat; the names keep the paths apart.
            let (graph, paths) = graph(&nodes, 3);
            let requests: Vec<_> = roots.iter().map(|&r| request(&graph, &paths[r % paths.len()], max)).collect();
            for (plan, request) in split(&graph, &requests).iter().zip(&requests) {
                prop_assert!(plan.len() <= max);
                let order: Vec<_> = plan.iter().flat_map(|part| &part.paths).collect();
                prop_assert_eq!(order.len(), request.closure.len());
                prop_assert_eq!(order.iter().copied().cloned().collect::<BTreeSet<_>>(), request.closure.clone());
            }
        }
    }
}
