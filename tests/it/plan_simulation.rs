//! What a host writes over a history of updates, for several ways to split closures into layers: the table of docs/layers.md.
//!
//! Nothing is measured: the graphs are real closures (tests/fixtures) or drawn from a seed, and so are the updates. As in Nix, an
//! update gives new content to everything that refers to what was changed, and Podman stores a layer again when anything
//! below it is new. A host keeps the layers of the last state and of the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};
use windlass::internals::nix::closure::ClosureGraph;
use windlass::internals::nix::store_path::{StoreDir, StorePath, nixbase32};
use windlass::internals::oci::digest::Digest;
use windlass::internals::plan::closure_split::{SplitRequest, split};
use windlass::internals::plan::plan_lock::{ClosureLayers, PlanLock};

use crate::nix::root;

const UPDATES: u32 = 20;
const MAX_LAYERS: usize = 20;

/// The same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }
}

#[derive(Clone)]
struct Package {
    name: String,
    version: u32,
    size: u64,
    references: BTreeSet<usize>,
}

#[derive(Clone)]
struct World {
    /// A package refers to those before it.
    packages: Vec<Package>,
    images: BTreeMap<String, BTreeSet<usize>>,
}

impl World {
    fn real() -> Self {
        let file = root().join("tests/fixtures/closures/ai-stack.json");
        let value: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let numbers = |value: &Value| -> BTreeSet<usize> {
            value.as_array().unwrap().iter().map(|n| usize::try_from(n.as_u64().unwrap()).unwrap()).collect()
        };
        let package = |value: &Value| Package {
            name: value["name"].as_str().unwrap().to_owned(),
            version: 0,
            size: value["size"].as_u64().unwrap(),
            references: numbers(&value["references"]),
        };
        Self {
            packages: value["paths"].as_array().unwrap().iter().map(package).collect(),
            images: value["images"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, roots)| (name.clone(), numbers(roots)))
                .collect(),
        }
    }

    /// This many packages, the last of which are the apps of this many images. As in nixpkgs, a few are referred to by most, and
    /// most are small.
    fn drawn(seed: u64, count: usize, images: usize) -> Self {
        let mut dice = Dice(seed);
        let packages = (0..count).map(|n| {
            let references =
                (0..dice.below(6)).filter(|_| n > 0).map(|_| dice.below(n).min(dice.below(n)).min(dice.below(n)));
            let references: BTreeSet<usize> = references.chain((n > 0).then_some(0)).collect();
            let size = 10_000_u64 << dice.below(13);
            Package { name: format!("p{}x", letters(n)), version: 0, size, references }
        });
        let mut packages: Vec<Package> = packages.collect();
        let libraries = count - images;
        for app in &mut packages[libraries..] {
            let more = (0..3 + libraries / 60).map(|_| libraries / 3 + dice.below(libraries * 2 / 3));
            app.references = app.references.iter().copied().filter(|n| *n < libraries).chain(more).collect();
        }
        let images = (0..images).map(|n| (format!("image-{}", letters(n)), [libraries + n].into())).collect();
        Self { packages, images }
    }

    /// One update: mostly of an app, sometimes of a library, sometimes an app begins or ends to need one.
    fn update(&mut self, dice: &mut Dice) {
        let apps: Vec<usize> = self
            .images
            .values()
            .filter_map(|roots| roots.iter().max_by_key(|n| self.packages[**n].references.len()))
            .copied()
            .collect();
        let app = apps[dice.below(apps.len())];
        match dice.below(10) {
            0..6 => self.packages[app].version += 1,
            6 | 7 => {
                let n = dice.below(self.packages.len());
                self.packages[n].version += 1;
            }
            // What is needed besides is mostly what something else has already.
            8 => {
                let n = dice.below(app);
                self.packages[app].references.insert(n);
            }
            _ => {
                let references: Vec<usize> = self.packages[app].references.iter().copied().collect();
                let n = references[dice.below(references.len())];
                self.packages[app].references.remove(&n);
            }
        }
    }

    /// The store paths, and the closure of each image.
    fn graph(&self) -> (ClosureGraph, BTreeMap<String, BTreeSet<StorePath>>) {
        let store = StoreDir::default();
        let mut paths: Vec<String> = Vec::new();
        let mut infos = Vec::new();
        for Package { name, version, size, references } in &self.packages {
            let references: Vec<&String> = references.iter().map(|&n| &paths[n]).collect();
            let content = Digest::of(format!("{name} {version} {references:?}").as_bytes());
            let hash: String = nixbase32::encode(content.as_bytes()).chars().take(32).collect();
            let path = format!("/nix/store/{hash}-{name}-{version}");
            infos
                .push(json!({"path": path, "narHash": content.to_string(), "narSize": size, "references": references}));
            paths.push(path);
        }
        let graph = ClosureGraph::from_value(&store, &Value::Array(infos)).unwrap();
        let paths: Vec<StorePath> = paths.iter().map(|path| store.parse(path).unwrap()).collect();
        let closure = |roots: &BTreeSet<usize>| graph.closure_of(roots.iter().map(|&n| &paths[n])).unwrap();
        let closures = self.images.iter().map(|(name, roots)| (name.clone(), closure(roots))).collect();
        (graph, closures)
    }
}

fn letters(mut n: usize) -> String {
    let mut text = String::new();
    loop {
        text.push(char::from(b'a' + u8::try_from(n % 26).unwrap()));
        n /= 26;
        if n == 0 {
            return text;
        }
    }
}

/// The layers of one image, bottom first.
type Layers = Vec<Vec<StorePath>>;

/// A way to split.
#[derive(Clone, Copy)]
enum Way {
    /// All in one layer, as `maxLayers = 1` has it.
    One,
    /// As dockerTools has it: what most others in the image's own closure refer to gets layers of its own, the rest is one.
    Popularity,
    /// All images of the stack together.
    Together,
    /// By a plan lock, which is written again after this many updates.
    Locked(u32),
}

struct Planner {
    way: Way,
    lock: BTreeMap<String, ClosureLayers>,
}

impl Planner {
    fn plan(
        &mut self,
        update: u32,
        graph: &ClosureGraph,
        closures: &BTreeMap<String, BTreeSet<StorePath>>,
    ) -> Vec<Layers> {
        let together = |locks: &BTreeMap<String, ClosureLayers>| -> Vec<Layers> {
            let requests = closures.iter().map(|(name, closure)| SplitRequest {
                closure: closure.clone(),
                max_layers: MAX_LAYERS,
                locked: locks.get(name).cloned(),
            });
            let plans = split(graph, &requests.collect::<Vec<_>>());
            plans.into_iter().map(|parts| parts.into_iter().map(|part| part.paths).collect()).collect()
        };
        match self.way {
            Way::One => closures.values().map(|closure| vec![closure.iter().cloned().collect()]).collect(),
            Way::Popularity => closures.values().map(|closure| by_popularity(graph, closure)).collect(),
            Way::Together => together(&BTreeMap::new()),
            Way::Locked(after) => {
                if update.is_multiple_of(after) {
                    let plans = together(&BTreeMap::new());
                    let lock = PlanLock::new(closures.keys().cloned().zip(&plans));
                    let lock = serde_json::to_value(lock).unwrap()["images"].take();
                    self.lock = serde_json::from_value(lock).unwrap();
                }
                together(&self.lock)
            }
        }
    }
}

fn by_popularity(graph: &ClosureGraph, closure: &BTreeSet<StorePath>) -> Layers {
    let referrers = graph.referrer_counts(closure);
    let mut paths: Vec<StorePath> = closure.iter().cloned().collect();
    paths.sort_by_cached_key(|path| (std::cmp::Reverse(referrers.get(path).copied()), path.name().to_owned()));
    let rest = paths.split_off(paths.len().min(MAX_LAYERS - 1));
    paths.into_iter().map(|path| vec![path]).chain((!rest.is_empty()).then_some(rest)).collect()
}

#[derive(Debug, Default)]
struct Costs {
    first: u64,
    updates: u64,
    /// Images that got another digest although their own closure was the same.
    neighbours: u32,
}

fn simulate(world: &World, seed: u64, way: Way) -> Costs {
    let (mut world, mut dice, mut costs) = (world.clone(), Dice(seed), Costs::default());
    let mut planner = Planner { way, lock: BTreeMap::new() };
    let mut before: BTreeMap<String, (BTreeSet<StorePath>, Vec<String>)> = BTreeMap::new();
    let mut kept: [BTreeSet<String>; 2] = Default::default();
    for update in 0..=UPDATES {
        if update > 0 {
            world.update(&mut dice);
        }
        let (graph, closures) = world.graph();
        let (mut there, mut bytes) = (BTreeSet::new(), 0);
        let mut after = BTreeMap::new();
        for ((name, closure), layers) in closures.iter().zip(planner.plan(update, &graph, &closures)) {
            let mut chain = Vec::new();
            for layer in layers {
                let id = Digest::of(format!("{:?} {layer:?}", chain.last()).as_bytes()).hex();
                if there.insert(id.clone()) && !kept.iter().any(|kept| kept.contains(&id)) {
                    bytes += layer.iter().map(|path| graph.get(path).unwrap().nar_size).sum::<u64>();
                }
                chain.push(id);
            }
            if before.get(name).is_some_and(|(old, ids)| old == closure && *ids != chain) {
                costs.neighbours += 1;
            }
            after.insert(name.clone(), (closure.clone(), chain));
        }
        *(if update == 0 { &mut costs.first } else { &mut costs.updates }) += bytes;
        before = after;
        kept = [there, std::mem::take(&mut kept[0])];
    }
    costs
}

fn worlds() -> Vec<(String, Vec<World>)> {
    let drawn = |count, images, histories| {
        let worlds = (1..=histories).map(|seed| World::drawn(seed, count, images)).collect();
        (format!("drawn, {count} paths, {images} images"), worlds)
    };
    let real = World::real();
    let name = format!("ai-stack, {} paths, {} images", real.packages.len(), real.images.len());
    let mut all = vec![(name, vec![real.clone(), real.clone(), real])];
    all.extend(
        [(50, 4, 3), (200, 6, 3), (1000, 8, 1)].map(|(count, images, histories)| drawn(count, images, histories)),
    );
    all
}

#[test]
fn what_each_way_costs_is_what_the_docs_say() {
    let mut table = String::from(
        "| stack | way | first load | 20 updates | digests changed by a neighbour |\n|---|---|---:|---:|---:|\n",
    );
    for (stack, worlds) in worlds() {
        let mut costs = BTreeMap::new();
        let ways = [
            ("one layer", Way::One),
            ("by popularity, as dockerTools", Way::Popularity),
            ("together", Way::Together),
            ("plan lock, written once", Way::Locked(UPDATES + 1)),
            ("plan lock, written every 10 updates", Way::Locked(10)),
        ];
        for (name, way) in ways {
            let mut sum = Costs::default();
            for (seed, world) in (7..).zip(&worlds) {
                let Costs { first, updates, neighbours } = simulate(world, seed, way);
                sum.first += first;
                sum.updates += updates;
                sum.neighbours += neighbours;
            }
            let megabytes = |bytes: u64| bytes / worlds.len() as u64 / 1_000_000;
            writeln!(
                table,
                "| {stack} | {name} | {} MB | {} MB | {} |",
                megabytes(sum.first),
                megabytes(sum.updates),
                sum.neighbours
            )
            .unwrap();
            costs.insert(name, sum);
        }
        // Whatever the stack: no neighbour has a say.
        assert_eq!(costs["plan lock, written once"].neighbours, 0, "{stack}");
        assert_eq!(costs["plan lock, written once"].first, costs["together"].first, "{stack}");
    }
    let page = root().join("docs/layers.md");
    let text = fs::read_to_string(&page).unwrap();
    let (begin, end) = ("<!-- simulation -->\n\n", "<!-- end -->");
    let (head, rest) = text.split_once(begin).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    let now = format!("{head}{begin}{table}\n{end}{tail}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, now).unwrap();
    } else {
        assert!(text == now, "docs/layers.md has another table; UPDATE_DOCS=1 writes it:\n{table}");
    }
}
