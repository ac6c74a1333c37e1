//! What `ctr` prints, read. Its tables are for people and have no other form (containerd 1.6 to 2.1): columns are told by
//! the words of a line, and a line that is not understood is about something that windlass has not made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::oci::digest::Digest;

/// One name of an image, as `ctr images list` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CtrImage {
    /// As containerd knows it, in full.
    pub(super) name: String,
    /// What it leads to: the digest of a manifest or an index.
    pub(super) target: Digest,
    /// Bytes of its blobs, as far as two digits tell.
    pub(super) size: u64,
    /// Its labels, as they are printed.
    labels: String,
}

impl CtrImage {
    /// The value of a label that has no comma in it.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.split(',').find_map(|label| label.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether the kubelet's garbage collector leaves it alone.
    pub(super) fn is_pinned(&self) -> bool {
        self.label("io.cri-containerd.pinned") == Some("pinned")
    }
}

/// The names of images: name, type, digest, size with its unit, platforms, labels.
pub(super) fn images(table: &str) -> Vec<CtrImage> {
    let image = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, _, target) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        let size = human(words.next()?, words.next()?)?;
        let labels = words.skip(1).collect::<Vec<_>>().join(" ");
        Some(CtrImage { name: name.to_owned(), target, size, labels })
    };
    table.lines().skip(1).filter_map(image).collect()
}

/// `51.9` and `MiB` as bytes.
fn human(number: &str, unit: &str) -> Option<u64> {
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit)?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = whole.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenth.get(..1)?.parse::<u64>().ok()?)?;
    tenths.checked_mul(1 << (10 * power)).map(|tenths| tenths / 10)
}

/// The blobs of a namespace, with their labels as they are printed: digest, size, age, labels, between tabs.
pub(super) fn content(table: &str) -> BTreeMap<Digest, String> {
    let blob = |line: &str| {
        let mut cells = line.split('\t').filter(|cell| !cell.is_empty());
        Some((cells.next()?.parse().ok()?, cells.nth(2).unwrap_or_default().to_owned()))
    };
    table.lines().skip(1).filter_map(blob).collect()
}

/// The snapshots of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CtrSnapshots {
    /// Finished ones, by their names: of an unpacked layer that is its chain ID.
    pub(super) unpacked: BTreeSet<Digest>,
    /// Those that something can write to, of a container by its ID, with the layer that they stand on.
    pub(super) active: BTreeMap<String, Digest>,
}

/// The snapshots: name, parent if it has one, kind.
pub(super) fn snapshots(table: &str) -> CtrSnapshots {
    let mut snapshots = CtrSnapshots::default();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [key, "Committed"] | [key, _, "Committed"] => snapshots.unpacked.extend(key.parse::<Digest>().ok()),
            // What is being unpacked has a name with a space in it.
            [key, parent, _] => {
                let parent = parent.parse::<Digest>().ok();
                snapshots.active.extend(parent.map(|parent| (key.to_owned(), parent)));
            }
            _ => {}
        }
    }
    snapshots
}

/// What containerd says of its parts: `ctr plugins list --detailed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CtrPlugins {
    /// The folder of its content store.
    pub(super) content: Option<PathBuf>,
    /// Whether a namespace may take content that another has: `shared` or `isolated`.
    pub(super) policy: Option<String>,
    /// The folders of its snapshotters, by their names.
    pub(super) snapshotters: BTreeMap<String, PathBuf>,
}

/// The parts of containerd: a paragraph for each, with what it exports.
pub(super) fn plugins(text: &str) -> CtrPlugins {
    let mut plugins = CtrPlugins::default();
    let (mut kind, mut name) = ("", "");
    for line in text.lines() {
        let value = |key: &str| line.trim().strip_prefix(key).map(str::trim);
        if let Some(found) = value("Type:") {
            kind = found;
        } else if let Some(found) = value("ID:") {
            name = found;
        } else if let Some(root) = value("root ").filter(|root| root.starts_with('/')) {
            match kind {
                "io.containerd.content.v1" => plugins.content = Some(PathBuf::from(root)),
                "io.containerd.snapshotter.v1" => {
                    plugins.snapshotters.insert(name.to_owned(), PathBuf::from(root));
                }
                _ => {}
            }
        } else if let Some(policy) = value("policy ").filter(|_| kind == "io.containerd.metadata.v1") {
            plugins.policy = Some(policy.to_owned());
        }
    }
    plugins
}

/// The first and the last word of each line: what a container or task is called, and what there is last of it.
pub(super) fn ends(table: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        Some((first.to_owned(), words.next_back()?.to_owned()))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// The containers with the names of their images: ID, image, runtime.
pub(super) fn containers(table: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "sha256:8956655e52207b4fb3aa98677feafb9f8feb71f2e5fd3dcb46f05ca1e4b20187";
    const TWO: &str = "sha256:60fc53c0dcbde8f45737920910e70843c193a055b0e661c70bb912fc2d93b1eb";

    fn digest(text: &str) -> Digest {
        text.parse().unwrap()
    }

    // The lines are of containerd 1.6.20 and 2.1.9.
    #[test]
    fn names_of_images_have_their_target_and_labels() {
        let table = format!(
            "REF TYPE DIGEST SIZE PLATFORMS LABELS \n\
             localhost/app:1 application/vnd.oci.image.manifest.v1+json {ONE} 52.0 MiB linux/amd64 a=b c,io.x=pinned,org.y={TWO} \n\
             localhost/app:2 application/vnd.oci.image.manifest.v1+json {ONE} 301.0 B - - \n\
             odd/one:1 application/vnd.oci.image.manifest.v1+json sha512:00 1.0 B - - \n"
        );
        let found = images(&table);
        assert_eq!(found.iter().map(|image| &*image.name).collect::<Vec<_>>(), ["localhost/app:1", "localhost/app:2"]);
        assert_eq!((found[0].target, found[0].size, found[1].size), (digest(ONE), 52 << 20, 301));
        assert_eq!(
            (found[0].label("io.x"), found[0].label("org.y"), found[1].label("io.x")),
            (Some("pinned"), Some(TWO), None)
        );
        assert_eq!(images("REF\n"), []);
    }

    #[test]
    fn sizes_are_read_as_they_are_printed() {
        let sizes = [
            ("51.9", "MiB", Some(54_421_094)),
            ("0.0", "B", Some(0)),
            ("3", "GiB", Some(3 << 30)),
            ("1.5", "MB", None),
        ];
        sizes.iter().for_each(|(number, unit, bytes)| assert_eq!(human(number, unit), *bytes));
        assert_eq!((human("x", "B"), human("1.", "B"), human("99999999999999999999", "B")), (None, None, None));
    }

    #[test]
    fn blobs_have_their_labels_and_snapshots_their_parents() {
        let table = format!(
            "DIGEST\t\tSIZE\tAGE\t\tLABELS\n{ONE}\t54.5MB\tLess than a second\t-\n\
             {TWO}\t401B\t3 weeks\tcontainerd.io/gc.root=windlass,x=y\n"
        );
        let blobs = content(&table);
        assert_eq!((&*blobs[&digest(ONE)], &*blobs[&digest(TWO)]), ("-", "containerd.io/gc.root=windlass,x=y"));
        let table = format!(
            "KEY PARENT KIND \n{TWO}        Committed \n{ONE} {TWO} Committed \ny {TWO} Active \n\
             extract-12-a {ONE} {TWO} Active \nz View \n"
        );
        let found = snapshots(&table);
        assert_eq!(found.unpacked, BTreeSet::from([digest(ONE), digest(TWO)]));
        assert_eq!(found.active, BTreeMap::from([("y".to_owned(), digest(TWO))]));
    }

    #[test]
    fn the_folders_of_containerd_are_found() {
        let text = "Type:             io.containerd.content.v1\nID:               content\nExports:         \n                  root      /var/lib/a b/io.containerd.content.v1.content\n\
                    Type:             io.containerd.snapshotter.v1\nID:               overlayfs\nExports:         \n                  root      /var/lib/x\nCapabilities:     remap-ids\n\
                    Type:             io.containerd.metadata.v1\nID:               bolt\nExports:         \n                  path        /var/lib/meta.db\n                  policy      shared\n";
        let found = plugins(text);
        assert_eq!(found.content, Some(PathBuf::from("/var/lib/a b/io.containerd.content.v1.content")));
        assert_eq!(found.policy.as_deref(), Some("shared"));
        assert_eq!(found.snapshotters["overlayfs"], PathBuf::from("/var/lib/x"));
        assert_eq!(plugins(""), CtrPlugins::default());
    }

    #[test]
    fn containers_and_tasks_are_told_by_their_first_word() {
        assert_eq!(
            containers("CONTAINER IMAGE RUNTIME\ny localhost/app:1 io.containerd.runc.v2 \n")["y"],
            "localhost/app:1"
        );
        assert_eq!(ends("TASK PID STATUS\ny 404 RUNNING\n")["y"], "RUNNING");
    }
}
