//! What a load says before it begins: what it copies, why, and what would save that.

use super::printer::size;
use crate::engine::target::{CopiedBytes, LoadMethod, LoadStep, LoadTarget};
use crate::podman::load::decide::PodmanHost;

/// Copies of more than this are warned of before they begin.
const MUCH: u64 = 1_000_000_000;

/// What is to be known before a load begins that copies: how much, why, and what would save it.
pub(super) fn foretell(host: &PodmanHost, targets: &[LoadTarget], steps: &[LoadStep]) -> Vec<String> {
    let mut lines = Vec::new();
    let pulled = || steps.iter().filter(|step| step.how == LoadMethod::Pull);
    let (stays, repeated) =
        pulled().fold((0, 0), |(stays, repeated), step| (stays + step.to_write, repeated + step.repeated));
    // Who has a linked store, and asks for Podman's own, knows.
    if stays > 0 && host.linked.is_none() {
        let needed = host.space(steps).ok().into_iter().flatten().map(|space| space.needed).max().unwrap_or(stays);
        let saving = host.saving(targets, steps);
        let advice = match saving {
            0 => String::new(),
            _ => format!(
                "; with a linked store, which `windlass doctor --fix` sets up, it would write {} less",
                size(saving)
            ),
        };
        let place = host.places.graph_root.display();
        lines.push(format!(
            "Podman writes {} to {place}, and needs {} while it works{advice}",
            size(stays),
            size(needed)
        ));
    }
    lines.extend(vfs(stays, repeated));
    let mut copies = CopiedBytes::new();
    for (cause, bytes) in steps.iter().flat_map(|step| &step.copies) {
        *copies.entry(*cause).or_default() += bytes;
    }
    let copied: u64 = copies.values().sum();
    if copied > MUCH {
        lines.push(format!("warning: {} is copied instead of linked: {}", size(copied), causes(&copies)));
    }
    lines
}

/// What the driver vfs costs, where its file system does not share data.
fn vfs(to_write: u64, repeated: u64) -> Option<String> {
    let plain = to_write.saturating_sub(repeated);
    let tenths = repeated.saturating_add(plain).saturating_mul(10).checked_div(plain)?;
    (repeated > 0).then(|| {
        format!(
            "warning: the storage driver vfs copies all layers below into each layer: {} instead of {}, {}.{} times as \
             much; the driver overlay does not, `maxLayers = 1` gives an image one layer above its models",
            size(to_write),
            size(plain),
            tenths / 10,
            tenths % 10
        )
    })
}

/// Why bytes are copied, in words.
pub(super) fn causes(copies: &CopiedBytes) -> String {
    match copies.len() {
        1 => copies.keys().map(ToString::to_string).collect(),
        _ => copies.iter().map(|(cause, bytes)| format!("{} {cause}", size(*bytes))).collect::<Vec<_>>().join(", "),
    }
}
