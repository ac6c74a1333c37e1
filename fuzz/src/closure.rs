//! Closures as Nix tells them: what is taken is closed and without a circle, in any order the same, and is read again from
//! the newest of Nix's formats.

use std::collections::BTreeSet;

use serde_json::{Map, json};
use windlass::internals::nix::closure::ClosureGraph;
use windlass::internals::nix::store_path::{StoreDir, StorePath};

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let store = StoreDir::default();
    let Ok(graph) = ClosureGraph::parse(&store, text) else { return false };
    let all: BTreeSet<StorePath> = graph.iter().map(|info| info.path.clone()).collect();
    let mut told = Map::new();
    for info in graph.iter() {
        assert!(info.references.iter().all(|reference| all.contains(reference)), "it is not closed");
        assert!(!info.references.contains(&info.path));
        let own = info.self_reference.then_some(&info.path);
        let references: Vec<String> = info.references.iter().chain(own).map(|path| store.display(path)).collect();
        let (hash, size) = (info.nar_hash.to_string(), info.nar_size);
        told.insert(store.display(&info.path), json!({"narHash": hash, "narSize": size, "references": references}));
    }
    let again = ClosureGraph::from_value(&store, &told.into()).expect("what was read can be written and read");
    assert_eq!(again, graph);
    let counts = graph.referrer_counts(&all);
    assert_eq!(counts.len(), graph.iter().count());
    for info in graph.iter() {
        // A path's count is larger than that of whatever needs it, so that there is no circle.
        assert!(info.references.iter().all(|reference| counts[reference] > counts[&info.path]));
        let closure = graph.closure_of([&info.path]).unwrap();
        for path in &closure {
            let chain = graph.chain([&info.path], path).expect("what is needed is reached");
            assert!(chain.first() == Some(&info.path) && chain.last() == Some(path));
        }
    }
    true
}
