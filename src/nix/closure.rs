//! The closure graph: which store paths there are, how large they are, and which refers to which.
//!
//! A graph that is not closed or not acyclic is refused here, so that nothing to the right has to think of it.
//!
//! Reproducibility: the order of the input does not matter; the graph is a map in the order of the paths.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use crate::class::{Class, Classified};
use crate::nix::path_info::{PathInfo, PathInfoError};
use crate::nix::store_path::{StoreDir, StorePath};

/// A set of store paths that holds every reference of its members; acyclic but for references to oneself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClosureGraph {
    nodes: BTreeMap<StorePath, PathInfo>,
}

/// Why a text is not a closure graph, or a graph cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// Not what Nix says of store paths.
    #[error(transparent)]
    PathInfo(#[from] PathInfoError),
    /// Two records of one path contradict each other.
    #[error("{0} is described twice, and differently")]
    Duplicate(StorePath),
    /// A reference leads out of the graph.
    #[error("the closure lacks {missing}, which {referrer} refers to; 'nix path-info' needs --recursive")]
    Lacks {
        /// The path that is not there.
        missing: StorePath,
        /// The path that needs it.
        referrer: StorePath,
    },
    /// References that run in a circle; Nix never makes them.
    #[error("references form a cycle: {}", arrows(.0))]
    Cycle(Vec<StorePath>),
    /// A root that the graph does not know.
    #[error("{0} is not in the closure graph")]
    UnknownRoot(StorePath),
}

impl Classified for ClosureError {
    fn class(&self) -> Class {
        match self {
            Self::PathInfo(error) => error.class(),
            Self::Duplicate(_) | Self::Lacks { .. } | Self::Cycle(_) | Self::UnknownRoot(_) => Class::Failed,
        }
    }
}

impl ClosureGraph {
    /// Reads any of Nix's formats.
    ///
    /// # Errors
    /// If the text is in none of these formats, or what it describes is not a closure.
    pub fn parse(store: &StoreDir, json: &str) -> Result<Self, ClosureError> {
        Self::from_value(store, &serde_json::from_str(json).map_err(PathInfoError::Json)?)
    }

    /// The same for a value that is already read, such as `closure` in a builder's `.attrs.json`.
    ///
    /// # Errors
    /// As [`ClosureGraph::parse`].
    pub fn from_value(store: &StoreDir, value: &Value) -> Result<Self, ClosureError> {
        Self::from_infos(PathInfo::read_all(store, value)?)
    }

    /// The graph of these paths; a path may come twice if both say the same.
    ///
    /// # Errors
    /// If they contradict each other, a reference is missing, or references form a cycle.
    pub(crate) fn from_infos(infos: impl IntoIterator<Item = PathInfo>) -> Result<Self, ClosureError> {
        let mut graph = Self::default();
        for info in infos {
            graph.insert(info)?;
        }
        ClosureIndex::new(&graph.nodes)?;
        Ok(graph)
    }

    /// What is recorded for this path.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<&PathInfo> {
        self.nodes.get(path)
    }

    /// All paths, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &PathInfo> {
        self.nodes.values()
    }

    /// All paths, each behind those that it refers to.
    #[must_use]
    pub(crate) fn references_first(&self) -> Vec<&PathInfo> {
        let Ok(index) = ClosureIndex::new(&self.nodes) else { return Vec::new() };
        index.referrers_first.iter().rev().map(|&node| &self.nodes[index.paths[node]]).collect()
    }

    /// The roots and everything that they need.
    ///
    /// # Errors
    /// If a root is not in the graph.
    pub fn closure_of<'a>(
        &self,
        roots: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<BTreeSet<StorePath>, ClosureError> {
        let (mut found, mut pending) = (BTreeSet::new(), Vec::new());
        for root in roots {
            pending.push(self.nodes.get(root).ok_or_else(|| ClosureError::UnknownRoot(root.clone()))?);
        }
        while let Some(info) = pending.pop() {
            if found.insert(info.path.clone()) {
                pending.extend(info.references.iter().filter_map(|path| self.nodes.get(path)));
            }
        }
        Ok(found)
    }

    /// The shortest way along references from one of these paths to `target`, both ends with it; of several the first
    /// in the order of the paths.
    #[must_use]
    pub fn chain<'a>(
        &self,
        starts: impl IntoIterator<Item = &'a StorePath>,
        target: &StorePath,
    ) -> Option<Vec<StorePath>> {
        let mut referrer: BTreeMap<&StorePath, Option<&StorePath>> = BTreeMap::new();
        let mut pending = VecDeque::new();
        let starts: BTreeSet<&StorePath> = starts.into_iter().collect();
        for (path, _) in starts.into_iter().filter_map(|start| self.nodes.get_key_value(start)) {
            referrer.insert(path, None);
            pending.push_back(path);
        }
        while let Some(path) = pending.pop_front() {
            if path == target {
                let mut chain: Vec<StorePath> =
                    std::iter::successors(Some(path), |path| referrer[path]).cloned().collect();
                chain.reverse();
                return Some(chain);
            }
            for reference in self.nodes.get(path).into_iter().flat_map(|info| &info.references) {
                referrer.entry(reference).or_insert_with(|| {
                    pending.push_back(reference);
                    Some(path)
                });
            }
        }
        None
    }

    /// For each path of `within`: how many *other* paths of `within` need it, directly or through any path of the
    /// graph. A path's count is always larger than that of whatever needs it. Paths outside the graph are left out.
    #[must_use]
    pub fn referrer_counts(&self, within: &BTreeSet<StorePath>) -> BTreeMap<StorePath, u32> {
        let Ok(index) = ClosureIndex::new(&self.nodes) else { return BTreeMap::new() };
        let members: Vec<usize> = within.iter().filter_map(|path| index.position(path)).collect();
        let mut counts = vec![0_u32; index.paths.len()];
        // 64 referrers at a time, one bit each, handed down along the references: linear memory at any size.
        for chunk in members.chunks(64) {
            let mut above = vec![0_u64; index.paths.len()];
            for (bit, &member) in chunk.iter().enumerate() {
                above[member] = 1 << bit;
            }
            for &node in &index.referrers_first {
                let bits = above[node];
                counts[node] += bits.count_ones();
                for &reference in &index.references[node] {
                    above[reference] |= bits;
                }
            }
        }
        members.into_iter().map(|member| (index.paths[member].clone(), counts[member] - 1)).collect()
    }

    fn insert(&mut self, info: PathInfo) -> Result<(), ClosureError> {
        match self.nodes.get(&info.path) {
            Some(known) if *known == info => {}
            Some(_) => return Err(ClosureError::Duplicate(info.path)),
            None => drop(self.nodes.insert(info.path.clone(), info)),
        }
        Ok(())
    }
}

/// The graph by number, in the order of the paths, and a topological order of it.
struct ClosureIndex<'a> {
    paths: Vec<&'a StorePath>,
    references: Vec<Vec<usize>>,
    referrers_first: Vec<usize>,
}

impl<'a> ClosureIndex<'a> {
    fn new(nodes: &'a BTreeMap<StorePath, PathInfo>) -> Result<Self, ClosureError> {
        let mut index = Self { paths: nodes.keys().collect(), references: Vec::new(), referrers_first: Vec::new() };
        for info in nodes.values() {
            let position = |path: &StorePath| {
                index
                    .position(path)
                    .ok_or_else(|| ClosureError::Lacks { missing: path.clone(), referrer: info.path.clone() })
            };
            let references = info.references.iter().map(position).collect::<Result<_, _>>()?;
            index.references.push(references);
        }
        index.sort()?;
        Ok(index)
    }

    fn position(&self, path: &StorePath) -> Option<usize> {
        self.paths.binary_search(&path).ok()
    }

    /// Kahn's algorithm: a path comes once everything that refers to it has come.
    fn sort(&mut self) -> Result<(), ClosureError> {
        let mut waiting = vec![0_usize; self.paths.len()];
        for &reference in self.references.iter().flatten() {
            waiting[reference] += 1;
        }
        self.referrers_first = (0..waiting.len()).filter(|&node| waiting[node] == 0).collect();
        let mut next = 0;
        while let Some(&node) = self.referrers_first.get(next) {
            next += 1;
            for &reference in &self.references[node] {
                waiting[reference] -= 1;
                if waiting[reference] == 0 {
                    self.referrers_first.push(reference);
                }
            }
        }
        match waiting.iter().position(|&n| n > 0) {
            None => Ok(()),
            Some(stuck) => Err(ClosureError::Cycle(self.cycle(stuck, &waiting))),
        }
    }

    /// The circle that one meets by walking up from a path that never came: each such path has a referrer that never
    /// came either.
    fn cycle(&self, stuck: usize, waiting: &[usize]) -> Vec<StorePath> {
        let mut referrer = vec![None; self.paths.len()];
        for node in (0..self.paths.len()).filter(|&node| waiting[node] > 0) {
            self.references[node].iter().for_each(|&reference| referrer[reference] = Some(node));
        }
        let up = |&node: &usize| referrer[node];
        // As many steps up as there are paths end on the circle, wherever they began.
        let on_circle = std::iter::successors(Some(stuck), up).nth(self.paths.len()).unwrap_or(stuck);
        let mut circle = vec![on_circle];
        circle.extend(std::iter::successors(up(&on_circle), up).take_while(|&node| node != on_circle));
        let least = circle.iter().enumerate().min_by_key(|&(_, node)| node).map_or(0, |(at, _)| at);
        circle.reverse();
        let turn = circle.len() - 1 - least;
        circle.rotate_left(turn);
        circle.into_iter().map(|node| self.paths[node].clone()).collect()
    }
}

fn arrows(cycle: &[StorePath]) -> String {
    cycle.iter().chain(cycle.first()).map(StorePath::base_name).collect::<Vec<_>>().join(" -> ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::nix::store_path::NarHash;

    const APP: &str = "1hdrbbgir5axm767f08q97bxk2g0kw4d-app";
    const LIB: &str = "5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0";

    /// `.attrs.json` of a derivation with `exportReferencesGraph.closure`, written by Nix 2.8.0.
    const EXPORTED: &str = r#"[
        {"closureSize":1088,"narHash":"sha256:0jsfnawxwf7vzq1d87b0l6h3jr4sxa0hq1jnlvcmj6xszy6lrdsj","narSize":384,
         "path":"/tmp/s/1hdrbbgir5axm767f08q97bxk2g0kw4d-app",
         "references":["/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0"]},
        {"closureSize":704,"narHash":"sha256:02qp8yz9pqxlk5z5f3bgcarkwfxmj632b9c2dms726pg2cjasb07","narSize":704,
         "path":"/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0",
         "references":["/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0"]}]"#;

    /// `nix path-info --json -r` of the same by Nix 2.8.0.
    const PATH_INFO: &str = r#"[
        {"path":"/tmp/s/1hdrbbgir5axm767f08q97bxk2g0kw4d-app",
         "narHash":"sha256-UrdMjf+6G1nZplYGDIHqmmQ5oKFgHdQC/vs43rmyTks=","narSize":384,
         "references":["/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0"],
         "deriver":"/tmp/s/942p41gm3q5r7hpdifiz598f06s0drq3-app.drv",
         "registrationTime":1795236935,"ultimate":true},
        {"path":"/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0",
         "narHash":"sha256-ByytJBPvGnF0bYKlJYaRtTs+s2JvDVd+mbTjm75HFws=","narSize":704,
         "references":["/tmp/s/5xgla77fp4d7ajxzfmpfsa55fcw7gmnn-lib-1.0"],
         "deriver":"/tmp/s/bnrv9qs4x247lphwkkw6s6h4nzrf2cb1-lib-1.0.drv",
         "registrationTime":1795236935,"ultimate":true}]"#;

    fn store() -> StoreDir {
        StoreDir::new("/tmp/s").unwrap()
    }

    fn path(base: &str) -> StorePath {
        StorePath::from_base_name(base).unwrap()
    }

    /// A path whose hash is the number `n`.
    fn numbered(n: usize) -> StorePath {
        path(&format!("{n:032b}-n{n}"))
    }

    fn graph(edges: &[Vec<usize>]) -> Result<ClosureGraph, ClosureError> {
        ClosureGraph::from_infos(edges.iter().enumerate().map(|(n, references)| PathInfo {
            path: numbered(n),
            nar_hash: NarHash::from_bytes([0; 32]),
            nar_size: 1,
            references: references.iter().map(|&n| numbered(n)).collect(),
            self_reference: false,
        }))
    }

    fn message(value: &Value) -> String {
        ClosureGraph::from_value(&store(), value).unwrap_err().to_string()
    }

    /// What Nix 2.19 and later print: the array as an object, with nulls for what is unknown.
    fn keyed(strip: &str) -> Value {
        let entries: Vec<Map<String, Value>> = serde_json::from_str(PATH_INFO).unwrap();
        let key = |mut entry: Map<String, Value>| {
            entry.extend([("ca".to_owned(), Value::Null), ("signatures".to_owned(), json!([]))]);
            (entry.remove("path").unwrap().as_str().unwrap().to_owned(), Value::Object(entry))
        };
        let object: Map<String, Value> = entries.into_iter().map(key).collect();
        serde_json::from_str(&Value::Object(object).to_string().replace(strip, "")).unwrap()
    }

    #[test]
    fn reads_every_dialect() {
        let graph = ClosureGraph::parse(&store(), EXPORTED).unwrap();
        let app = graph.get(&path(APP)).unwrap();
        assert_eq!((app.nar_size, app.self_reference), (384, false));
        assert_eq!(app.nar_hash.to_string(), "sha256-UrdMjf+6G1nZplYGDIHqmmQ5oKFgHdQC/vs43rmyTks=");
        assert_eq!(app.references, [path(LIB)].into());
        let lib = graph.get(&path(LIB)).unwrap();
        assert_eq!((lib.references.len(), lib.self_reference), (0, true));

        assert_eq!(ClosureGraph::parse(&store(), PATH_INFO).unwrap(), graph);
        assert_eq!(ClosureGraph::from_value(&store(), &keyed("nothing")).unwrap(), graph);
        let mut short = keyed("/tmp/s/");
        assert_eq!(ClosureGraph::from_value(&store(), &short).unwrap(), graph);
        short[APP]["storeDir"] = json!("/tmp/s");
        short[APP]["narHash"] = json!({
            "algorithm": "sha256", "format": "base64", "hash": "UrdMjf+6G1nZplYGDIHqmmQ5oKFgHdQC/vs43rmyTks="
        });
        let wrapped = json!({ "version": 3, "storeDir": "/tmp/s", "info": short });
        assert_eq!(ClosureGraph::from_value(&store(), &wrapped).unwrap(), graph);
        assert!(ClosureGraph::parse(&store(), "[]").unwrap().nodes.is_empty());
    }

    #[test]
    fn names_path_and_key_of_what_is_wrong() {
        let broken = |key: &str, value: Value| {
            let mut json = keyed("/tmp/s/");
            json[APP][key] = value;
            message(&json)
        };
        assert_eq!(
            broken("narSize", json!("384")),
            format!("{APP}, 'narSize': expected a number of bytes, found \"384\"")
        );
        assert_eq!(broken("narSize", json!(-1)), format!("{APP}, 'narSize': expected a number of bytes, found -1"));
        assert_eq!(broken("narHash", json!(null)), format!("{APP}, 'narHash': expected a text, found null"));
        assert_eq!(
            broken("references", json!({})),
            format!("{APP}, 'references': expected an array of store paths, found an object")
        );
        assert_eq!(broken("references", json!([1])), format!("{APP}, 'references': expected a text, found 1"));
        assert!(broken("references", json!(["/x/y"])).contains("'/x/y' is not below the store /tmp/s"));
        assert!(broken("narHash", json!("md5:x")).contains("expected a sha256 hash, found md5"));
        assert!(broken("storeDir", json!("/nix/store")).contains("found \"/nix/store\""));
        for key in ["narSize", "narHash", "references"] {
            let mut json = keyed("/tmp/s/");
            json[APP].as_object_mut().unwrap().remove(key);
            assert_eq!(message(&json), format!("the closure says nothing of '{key}' for {APP}"));
        }
        assert_eq!(message(&json!([{}])), "the closure says nothing of 'path' for entry 1");
        assert_eq!(message(&json!([1])), "entry 1: expected an object, found 1");
        assert_eq!(message(&json!([{ "path": "/x" }])), "entry 1, 'path': '/x' is not below the store /tmp/s");
        assert!(message(&json!("x")).starts_with("the closure: expected an array"));
        assert!(
            ClosureGraph::parse(&store(), "[").unwrap_err().to_string().starts_with("the closure is not JSON: EOF")
        );
    }

    #[test]
    fn refuses_what_is_not_a_closure() {
        for invalid in [json!(null), json!({ "valid": false })] {
            assert!(message(&json!({ APP: invalid })).starts_with(&format!("{APP} is not valid")));
        }
        assert!(message(&json!([{ "path": APP, "valid": false }])).starts_with(&format!("{APP} is not valid")));
        let mut twice: Vec<Value> = serde_json::from_str(EXPORTED).unwrap();
        twice.push(twice[0].clone());
        assert_eq!(ClosureGraph::from_value(&store(), &json!(twice)).unwrap().nodes.len(), 2);
        twice[0]["narSize"] = json!(1);
        assert_eq!(message(&json!(twice)), format!("{APP} is described twice, and differently"));
        assert!(message(&json!(twice[..1])).starts_with(&format!("the closure lacks {LIB}, which {APP} refers to")));

        // 0 -> 1 -> 3 -> 2 -> 1, and 4 that only hangs below the circle.
        let Err(ClosureError::Cycle(cycle)) = graph(&[vec![1], vec![3], vec![1, 4], vec![2], vec![]]) else {
            panic!("a cycle was not seen")
        };
        assert_eq!(cycle, [1, 3, 2].map(numbered));
        let name = |n| numbered(n).to_string();
        assert_eq!(
            graph(&[vec![1], vec![0]]).unwrap_err().to_string(),
            format!("references form a cycle: {} -> {} -> {}", name(0), name(1), name(0))
        );
    }

    #[test]
    fn a_path_told_twice_must_be_told_the_same() {
        let infos = |references: &[Vec<usize>]| graph(references).unwrap().iter().cloned().collect::<Vec<_>>();
        let (small, large) = (infos(&[vec![]]), infos(&[vec![], vec![0], vec![1]]));
        let both = ClosureGraph::from_infos(small.iter().chain(&large).cloned()).unwrap();
        assert_eq!(both, graph(&[vec![], vec![0], vec![1]]).unwrap());
        let other = infos(&[vec![1], vec![]]);
        let twice = ClosureGraph::from_infos(small.into_iter().chain(other)).unwrap_err();
        assert!(matches!(twice, ClosureError::Duplicate(path) if path == numbered(0)));
        assert_eq!(both.closure_of([&numbered(1)]).unwrap(), [0, 1].map(numbered).into());
    }

    #[test]
    fn a_chain_is_the_shortest_one() {
        // 4 -> 3 -> 2 -> 0 and 4 -> 1 -> 0; 5 -> 2 is as far as 4 -> 1 and comes later.
        let graph = graph(&[vec![], vec![0], vec![0], vec![2], vec![3, 1], vec![2]]).unwrap();
        let chain = |starts: &[usize], target: usize| {
            let starts: Vec<StorePath> = starts.iter().copied().map(numbered).collect();
            graph.chain(&starts, &numbered(target))
        };
        assert_eq!(chain(&[5, 4], 0).unwrap(), [4, 1, 0].map(numbered));
        assert_eq!(chain(&[4, 2], 2).unwrap(), [2].map(numbered));
        assert_eq!((chain(&[0, 1], 4), chain(&[7], 0)), (None, None));
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        let deep: Vec<Vec<usize>> = (0..100_000).map(|n| if n == 0 { vec![] } else { vec![n - 1] }).collect();
        let deep = graph(&deep).unwrap();
        assert_eq!(deep.closure_of([&numbered(99_999)]).unwrap().len(), 100_000);
        let some = (0..100).map(|n| numbered(n * 1000)).collect();
        assert_eq!(deep.referrer_counts(&some)[&numbered(98_000)], 1);
    }

    /// Everything that `from` refers to, and itself: by repetition until nothing is new.
    fn naive(edges: &[Vec<usize>], from: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::from([from]);
        loop {
            let more: BTreeSet<usize> = seen.iter().flat_map(|&n| edges[n].iter().copied()).collect();
            if more.is_subset(&seen) {
                return seen;
            }
            seen.extend(more);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive(
            raw in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..90),
            chosen: Vec<prop::sample::Index>,
        ) {
            let edges: Vec<Vec<usize>> = raw.iter().enumerate()
                .map(|(n, to)| if n == 0 { vec![] } else { to.iter().map(|i| i.index(n)).collect() }).collect();
            let graph = graph(&edges).unwrap();
            let chosen: BTreeSet<usize> = chosen.iter().map(|i| i.index(edges.len())).collect();
            let closure: BTreeSet<StorePath> = chosen.iter().flat_map(|&n| naive(&edges, n)).map(numbered).collect();
            let within: BTreeSet<StorePath> = chosen.iter().copied().map(numbered).collect();
            prop_assert_eq!(&graph.closure_of(&within).unwrap(), &closure);
            for n in 0..edges.len() {
                let chain = graph.chain(&within, &numbered(n));
                prop_assert_eq!(chain.is_some(), closure.contains(&numbered(n)));
                for pair in chain.iter().flat_map(|chain| chain.windows(2)) {
                    prop_assert!(graph.get(&pair[0]).unwrap().references.contains(&pair[1]));
                }
            }
            let counts = graph.referrer_counts(&within);
            prop_assert_eq!(counts.len(), within.len());
            let below: Vec<(usize, BTreeSet<usize>)> = chosen.iter().map(|&n| (n, naive(&edges, n))).collect();
            for &n in &chosen {
                let referrers = below.iter().filter(|(m, below)| *m != n && below.contains(&n)).count();
                prop_assert_eq!(counts[&numbered(n)] as usize, referrers);
            }
        }
    }
}
