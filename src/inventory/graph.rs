//! Questions about references: why is a store path there, who needs it, and what would leave with it.
//!
//! All answers for an image are found in one walk over its store paths, in time that grows with the references. Closure sizes
//! take one walk for every 64 store paths. Answers do not depend on an order: of several equal ones the first by name is given.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::Inventory;

/// The store paths of one image, or of all, with their references.
#[derive(Debug, Clone)]
pub(crate) struct ReferenceGraph<'a> {
    /// By name, so that a number is found by bisection.
    names: Vec<&'a str>,
    sizes: Vec<u64>,
    references: Vec<Vec<usize>>,
    referrers: Vec<Vec<usize>>,
    is_root: Vec<bool>,
    /// Each before what it refers to.
    order: Vec<usize>,
    /// The next step towards the nearest root.
    nearer: Vec<Option<usize>>,
}

/// Bytes of a store path, as Nix counts them in NARs. What is not known counts as 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathSizes {
    /// Its own.
    pub(crate) own: u64,
    /// With all that it needs.
    pub(crate) closure: u64,
    /// What would leave with it: its own bytes, and those of all that is only there for it.
    pub(crate) added: u64,
}

impl<'a> ReferenceGraph<'a> {
    /// The graph of one image.
    pub(crate) fn of_image(inventory: &'a Inventory, image: usize) -> Self {
        let roots = inventory.images.get(image).map(|image| &image.roots);
        let is_root = |name: &str| roots.is_some_and(|roots| roots.contains(name));
        Self::new(inventory, &|name| inventory.paths[name].images.contains(&image), &is_root)
    }

    /// The graph of all images together; the roots of each are roots.
    pub(crate) fn of_all(inventory: &'a Inventory) -> Self {
        let is_root = |name: &str| inventory.images.iter().any(|image| image.roots.contains(name));
        Self::new(inventory, &|_| true, &is_root)
    }

    fn new(inventory: &'a Inventory, is_in: &dyn Fn(&str) -> bool, is_root: &dyn Fn(&str) -> bool) -> Self {
        let paths: Vec<_> = inventory.paths.iter().filter(|(name, _)| is_in(name)).collect();
        let names: Vec<&str> = paths.iter().map(|(name, _)| name.as_str()).collect();
        let number = |name: &String| names.binary_search(&name.as_str()).ok();
        let references: Vec<Vec<usize>> =
            paths.iter().map(|(_, path)| path.references.iter().filter_map(number).collect()).collect();
        let mut referrers = vec![Vec::new(); names.len()];
        for (node, references) in references.iter().enumerate() {
            references.iter().for_each(|&reference| referrers[reference].push(node));
        }
        let sizes = paths.iter().map(|(_, path)| path.nar_size.unwrap_or_default()).collect();
        let is_root = names.iter().map(|name| is_root(name)).collect();
        let (order, nearer) = (Vec::new(), vec![None; names.len()]);
        let mut graph = Self { names, sizes, references, referrers, is_root, order, nearer };
        graph.sort();
        graph.find_nearest();
        graph
    }

    /// The store paths in it, by name.
    pub(crate) fn names(&self) -> &[&'a str] {
        &self.names
    }

    /// Those that the image is made for.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().zip(&self.is_root).filter(|(_, is_root)| **is_root).map(|(name, _)| *name)
    }

    /// The shortest way along references from a root to a store path, both ends with it.
    pub(crate) fn why(&self, path: &str) -> Option<Vec<&'a str>> {
        let node = self.number(path)?;
        let way = std::iter::successors(Some(node), |&node| self.nearer[node].filter(|_| !self.is_root[node]));
        let mut way: Vec<&str> = way.map(|node| self.names[node]).collect();
        way.reverse();
        Some(way)
    }

    /// The store paths that refer to one.
    pub(crate) fn referrers(&self, path: &str) -> Vec<&'a str> {
        self.number(path).map(|node| self.named(&self.referrers[node])).unwrap_or_default()
    }

    /// The store paths that one refers to.
    pub(crate) fn references(&self, path: &str) -> Vec<&'a str> {
        self.number(path).map(|node| self.named(&self.references[node])).unwrap_or_default()
    }

    /// Own, closure and added size of every store path.
    pub(crate) fn sizes(&self) -> BTreeMap<&'a str, PathSizes> {
        let (closures, added) = (self.closure_sizes(), self.added_sizes());
        let sizes = |node: usize| PathSizes { own: self.sizes[node], closure: closures[node], added: added[node] };
        self.names.iter().enumerate().map(|(node, name)| (*name, sizes(node))).collect()
    }

    fn number(&self, path: &str) -> Option<usize> {
        self.names.binary_search(&path).ok()
    }

    fn named(&self, nodes: &[usize]) -> Vec<&'a str> {
        nodes.iter().map(|&node| self.names[node]).collect()
    }

    /// Kahn's algorithm; references form no circle, as a closure with one cannot be read.
    fn sort(&mut self) {
        let mut waiting: Vec<usize> = self.referrers.iter().map(Vec::len).collect();
        self.order = (0..waiting.len()).filter(|&node| waiting[node] == 0).collect();
        let mut next = 0;
        while let Some(&node) = self.order.get(next) {
            next += 1;
            for &reference in &self.references[node] {
                waiting[reference] -= 1;
                if waiting[reference] == 0 {
                    self.order.push(reference);
                }
            }
        }
    }

    /// Breadth first from all roots at once.
    fn find_nearest(&mut self) {
        let mut seen = self.is_root.clone();
        let mut pending: VecDeque<usize> = (0..self.names.len()).filter(|&node| seen[node]).collect();
        while let Some(node) = pending.pop_front() {
            for &reference in &self.references[node] {
                if !std::mem::replace(&mut seen[reference], true) {
                    self.nearer[reference] = Some(node);
                    pending.push_back(reference);
                }
            }
        }
    }

    /// 64 store paths at a time, one bit each, handed down along the references: linear memory at any size.
    fn closure_sizes(&self) -> Vec<u64> {
        let mut closures = vec![0; self.names.len()];
        let nodes: Vec<usize> = (0..self.names.len()).collect();
        for chunk in nodes.chunks(64) {
            let mut above = vec![0_u64; self.names.len()];
            for (bit, &node) in chunk.iter().enumerate() {
                above[node] = 1 << bit;
            }
            for &node in &self.order {
                let bits = above[node];
                for (bit, &top) in chunk.iter().enumerate() {
                    if bits & (1 << bit) != 0 {
                        closures[top] = u64::saturating_add(closures[top], self.sizes[node]);
                    }
                }
                for &reference in &self.references[node] {
                    above[reference] |= bits;
                }
            }
        }
        closures
    }

    /// Sums over the dominator tree: a store path that every way from a root to another leads through takes it along. In the
    /// order of the graph, the dominator of a path is where the ways to all of its referrers meet.
    fn added_sizes(&self) -> Vec<u64> {
        let top = self.names.len();
        let (mut above, mut depths) = (vec![top; top + 1], vec![0_usize; top + 1]);
        for &node in &self.order {
            let mut dominator = if self.is_root[node] { Some(top) } else { None };
            for &referrer in &self.referrers[node] {
                let mut one = referrer;
                let Some(mut two) = dominator else {
                    dominator = Some(referrer);
                    continue;
                };
                while one != two {
                    if depths[one] < depths[two] {
                        std::mem::swap(&mut one, &mut two);
                    }
                    one = above[one];
                }
                dominator = Some(one);
            }
            above[node] = dominator.unwrap_or(top);
            depths[node] = depths[above[node]] + 1;
        }
        let mut added = self.sizes.clone();
        for &node in self.order.iter().rev() {
            if above[node] != top {
                added[above[node]] = u64::saturating_add(added[above[node]], added[node]);
            }
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::image::summary::ImageKind;
    use crate::inventory::{InventoryImage, InventoryPath};
    use crate::names::Name;
    use crate::nix::store_path::StorePath;
    use crate::oci::digest::Digest;
    use crate::oci::platform::Platform;
    use crate::oci::reference::Reference;

    /// An inventory of one image with these references, by number; sizes are powers of two, so that a sum says what is in it.
    fn numbered(edges: &[Vec<usize>]) -> Inventory {
        let name = |n: usize| format!("/nix/store/{n:032}-n{n}");
        let mut inventory = Inventory::default();
        let mut referred = BTreeSet::new();
        for (n, references) in edges.iter().enumerate() {
            let mut path = InventoryPath::new(&StorePath::from_base_name(&name(n)[11..]).unwrap());
            path.nar_size = Some(1 << (n % 60));
            path.references = references.iter().map(|n| name(*n)).collect();
            path.images.insert(0);
            referred.extend(path.references.clone());
            inventory.paths.insert(name(n), path);
        }
        let reference: Reference = Reference::new("localhost/one", "1").unwrap();
        inventory.images.push(InventoryImage {
            name: Name::new("one").unwrap(),
            reference,
            platform: Platform::of_data(),
            kind: ImageKind::Image,
            digest: Digest::of(b""),
            index_digest: None,
            config_digest: Digest::of(b""),
            size: 0,
            layers: Vec::new(),
            models: Vec::new(),
            origin: None,
            base: None,
            created: None,
            roots: inventory.paths.keys().filter(|name| !referred.contains(*name)).cloned().collect(),
        });
        inventory
    }

    #[test]
    fn references_say_why_a_path_is_there_and_what_leaves_with_it() {
        // 4, a web server, needs 2 and 3; both need 1; 3 alone needs 0.
        let inventory = numbered(&[vec![], vec![], vec![1], vec![0, 1], vec![2, 3]]);
        let graph = ReferenceGraph::of_image(&inventory, 0);
        let name = |n: usize| format!("/nix/store/{n:032}-n{n}");
        assert_eq!(graph.roots().collect::<Vec<_>>(), [name(4)]);
        assert_eq!(graph.why(&name(1)).unwrap(), [4, 2, 1].map(name));
        assert_eq!(graph.why(&name(4)).unwrap(), [name(4)]);
        assert_eq!(graph.why("/nix/store/other"), None);
        assert_eq!(graph.referrers(&name(1)), [2, 3].map(name));
        assert_eq!(graph.references(&name(3)), [0, 1].map(name));
        let sizes = graph.sizes();
        let of = |n: usize| sizes[&*name(n)];
        assert_eq!(of(4), PathSizes { own: 16, closure: 31, added: 31 });
        assert_eq!(of(2), PathSizes { own: 4, closure: 6, added: 4 }, "3 needs 1 as well");
        assert_eq!(of(3), PathSizes { own: 8, closure: 11, added: 9 });
    }

    /// What can be reached from these without going through `without`.
    fn reached(edges: &[Vec<usize>], from: &[usize], without: Option<usize>) -> BTreeSet<usize> {
        let (mut seen, mut left) = (BTreeSet::new(), from.to_vec());
        while let Some(node) = left.pop() {
            if Some(node) != without && seen.insert(node) {
                left.extend(&edges[node]);
            }
        }
        seen
    }

    proptest::proptest! {
        #[test]
        fn sizes_agree_with_taking_each_path_away(
            raw in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 0..4), 1..59),
        ) {
            let edges: Vec<Vec<usize>> = raw.iter().enumerate()
                .map(|(n, to)| if n == 0 { vec![] } else { to.iter().map(|i| i.index(n)).collect::<BTreeSet<_>>().into_iter().collect() })
                .collect();
            let inventory = numbered(&edges);
            let graph = ReferenceGraph::of_image(&inventory, 0);
            let roots: Vec<usize> = graph.roots().map(|root| root.rsplit_once("-n").unwrap().1.parse().unwrap()).collect();
            let bytes = |nodes: &BTreeSet<usize>| nodes.iter().map(|n| 1_u64 << n).sum::<u64>();
            let all = bytes(&reached(&edges, &roots, None));
            for (n, (name, sizes)) in graph.sizes().into_iter().enumerate() {
                let added = all - bytes(&reached(&edges, &roots, Some(n)));
                let closure = bytes(&reached(&edges, &[n], None));
                proptest::prop_assert_eq!(sizes, PathSizes { own: 1 << n, closure, added });
                let way = graph.why(name).unwrap();
                let starts_at_root = roots.iter().any(|root| way[0].ends_with(&["-n", &root.to_string()].concat()));
                proptest::prop_assert!(starts_at_root);
                for pair in way.windows(2) {
                    proptest::prop_assert!(inventory.paths[pair[0]].references.contains(pair[1]));
                }
            }
        }
    }

    #[test]
    fn three_thousand_paths_and_a_long_chain_are_quick() {
        let wide: Vec<Vec<usize>> =
            (0..3000_usize).map(|n| (1..=8).filter_map(|step| n.checked_sub(step * step)).collect()).collect();
        let inventory = numbered(&wide);
        assert_eq!(ReferenceGraph::of_all(&inventory).sizes().len(), 3000);
        let chain: Vec<Vec<usize>> = (0..20_000_usize).map(|n| n.checked_sub(1).into_iter().collect()).collect();
        let inventory = numbered(&chain);
        let graph = ReferenceGraph::of_image(&inventory, 0);
        assert_eq!(graph.why(graph.names()[0]).unwrap().len(), 20_000);
    }
}
