//! What `nix-store --load-db` reads: the store paths of an image, so that the Nix in it knows them.
//!
//! For each path, a line each: the path, the SHA-256 of its NAR in hex, the length of that, who derived it (nothing here: no
//! image has derivations), how many paths it refers to, and these, itself with them.
//!
//! Reproducibility: a function of the paths and of what Nix records of them.

use std::collections::BTreeSet;

use crate::nix::closure::ClosureGraph;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::oci::digest::to_hex;

/// The registration of these paths; what the graph does not know is left out, as are references that lead out of them.
#[must_use]
pub(crate) fn registration(graph: &ClosureGraph, store: &StoreDir, paths: &BTreeSet<StorePath>) -> String {
    let mut lines = Vec::new();
    for info in graph.iter().filter(|info| paths.contains(&info.path)) {
        let itself = info.self_reference.then_some(&info.path);
        let references: BTreeSet<&StorePath> =
            info.references.iter().chain(itself).filter(|path| paths.contains(path)).collect();
        lines.push(store.display(&info.path).to_string());
        lines.push(to_hex(info.nar_hash.as_bytes()));
        lines.push(info.nar_size.to_string());
        lines.push(String::new());
        lines.push(references.len().to_string());
        lines.extend(references.into_iter().map(|path| store.display(path).to_string()));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Those of these paths that no other one refers to: with them as roots a garbage collection takes nothing away.
#[must_use]
pub(crate) fn tops(graph: &ClosureGraph, paths: &BTreeSet<StorePath>) -> Vec<StorePath> {
    let referred: BTreeSet<&StorePath> =
        graph.iter().filter(|info| paths.contains(&info.path)).flat_map(|info| &info.references).collect();
    paths.iter().filter(|path| !referred.contains(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_told_with_itself_among_its_references() {
        let store = StoreDir::default();
        let [a, b, c] = ["a", "b", "c"].map(|letter| format!("/nix/store/{}-{letter}", letter.repeat(32)));
        let hash = "sha256:0000000000000000000000000000000000000000000000000000000000000001";
        let json = serde_json::json!([
            { "path": a, "narHash": hash, "narSize": 120, "references": [a, b] },
            { "path": b, "narHash": hash, "narSize": 7, "references": [c] },
            { "path": c, "narHash": hash, "narSize": 8, "references": [] },
        ]);
        let graph = ClosureGraph::from_value(&store, &json).unwrap();
        let paths: BTreeSet<StorePath> = [&a, &b].map(|path| store.parse(path).unwrap()).into();
        let hex = &hash[7..];
        assert_eq!(
            registration(&graph, &store, &paths),
            format!("{a}\n{hex}\n120\n\n2\n{a}\n{b}\n{b}\n{hex}\n7\n\n0\n"),
            "c is not in the image"
        );
        assert_eq!(tops(&graph, &paths), [store.parse(&a).unwrap()]);
    }
}
