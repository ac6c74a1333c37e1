//! The bytes of all updates as bars, one group for each route.
//!
//! Reproducibility: a pure function of the report; whole numbers only.

use maud::{PreEscaped, html};

use super::SimulateReport;
use crate::cli::printer::{count, shown, size};
use crate::fleet::schemes::LayerScheme;
use crate::fleet::simulation::{FleetCost, FleetRoute};

/// In the picture's own units.
const WIDTH: u64 = 760;
const LEFT: u64 = 206;
const BARS: u64 = 420;
const ROW: u64 = 38;
const HEAD: u64 = 74;

/// Both of the reader's colour schemes; a page that shows the picture as an image passes its own on.
const STYLE: &str = ":root{color-scheme:light dark}\
.page{fill:#fff}.ink{fill:#16222d}.muted{fill:#52626f}.received{fill:#0f7f9f}.written{fill:#d4603a}.line{stroke:#d8e0e7}\
text{font:13px system-ui,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}.title{font-size:16px;font-weight:600}.route{font-weight:600}\
@media(prefers-color-scheme:dark){.page{fill:#0e161d}.ink{fill:#e8eef3}.muted{fill:#a3b3c0}.received{fill:#4db3d1}.written{fill:#f08a63}.line{stroke:#2b3a47}}";

/// The picture, as a file of its own.
pub(super) fn picture(report: &SimulateReport) -> String {
    let most =
        report.costs.iter().map(|cost| cost.updates.received.max(cost.updates.written)).max().unwrap_or(0).max(1);
    let groups: Vec<(FleetRoute, Vec<&FleetCost>)> = FleetRoute::ALL
        .into_iter()
        .map(|route| (route, report.costs.iter().filter(|cost| cost.route == route).collect()))
        .filter(|(_, costs): &(_, Vec<_>)| !costs.is_empty())
        .collect();
    let rows: u64 = groups.iter().map(|(_, costs)| costs.len() as u64).sum();
    let height = HEAD + rows * ROW + groups.len() as u64 * 30 + 10;
    // A byte that is there is seen.
    let bar = |bytes: u64| {
        let long = u128::from(bytes) * u128::from(BARS) / u128::from(most);
        u64::try_from(long).unwrap_or(BARS).max(u64::from(bytes > 0))
    };
    let title = format!(
        "{}, {}: all bytes of {}",
        count(report.hosts as usize, "host"),
        count(report.images, "image"),
        count(report.versions.len() - 1, "update")
    );
    let titles: Vec<_> = report.versions.iter().skip(1).map(|title| shown(title)).collect();
    let mut y = HEAD;
    let mut parts = Vec::new();
    for (route, costs) in &groups {
        parts.push(html! {
            line class="line" x1="20" x2=(WIDTH - 20) y1=(y) y2=(y) {}
            text class="ink route" x="20" y=(y + 20) { (route.title()) }
        });
        y += 30;
        for cost in costs {
            let ours = cost.scheme == LayerScheme::Windlass;
            let (received, written) = (bar(cost.updates.received), bar(cost.updates.written));
            parts.push(html! {
                text class=(if ours { "ink route" } else { "ink" }) x="20" y=(y + 17) { (cost.scheme.title()) }
                rect class="received" x=(LEFT) y=(y + 2) width=(received) height="12" {}
                rect class="written" x=(LEFT) y=(y + 17) width=(written) height="12" {}
                text class="muted" x=(LEFT + received + 6) y=(y + 13) { (size(cost.updates.received)) }
                text class="muted" x=(LEFT + written + 6) y=(y + 28) { (size(cost.updates.written)) }
            });
            y += ROW;
        }
    }
    let markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height) role="img" aria-labelledby="t d" {
            title id="t" { (title) }
            desc id="d" { "Updates: " (titles.join(", ")) }
            style { (PreEscaped(STYLE)) }
            rect class="page" width=(WIDTH) height=(height) rx="6" {}
            text class="ink title" x="20" y="30" { (title) }
            rect class="received" x="20" y="44" width="12" height="12" {}
            text class="muted" x="38" y="55" { "received" }
            rect class="written" x="120" y="44" width="12" height="12" {}
            text class="muted" x="138" y="55" { "written to the disk" }
            @for part in &parts { (part) }
        }
    };
    markup.into_string() + "\n"
}
