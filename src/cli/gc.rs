//! `windlass gc`

use std::io::{IsTerminal, stdin};

use serde::Serialize;

use super::daemon;
use super::failure::{Result, failed, usage};
use super::host::HostArgs;
use super::into::{ChosenEngine, IntoArgs};
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::daemon::host::DaemonHost;
use crate::engine::Engine as _;
use crate::engine::kind::EngineKind;
use crate::podman::keep::gc::{self, GarbageClass, GcPlan, GcRequest, KeptItem, NotOurs, Removal, Removed};
use crate::podman::storage::others::OtherUsers;

const EXAMPLE: &str = "Examples:
  windlass gc                                    what would go, what would stay and why
  windlass gc --apply                            do it
  windlass gc --apply --only temp                only what killed runs have left
  windlass gc --apply --above 85% --down-to 80%  for a timer: only when the disk is nearly full";

/// Remove what is no longer needed of what windlass itself brought. Without --apply nothing is changed.
///
/// Generations but for the last ones, images that no kept generation has, leftovers of killed runs, and layers that a load left
/// in Podman without an image. Networks of the modules go if they are asked for. Never volumes, images or names that others
/// brought, and nothing that is used: by a container, running or stopped, as an image that one mounts,
/// by other users of the linked store, or by generations of another graph root.
///
/// With --into, generations, images and leftovers of windlass go from another engine, which removes what its images have alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct GcArgs {
    /// Remove it.
    #[arg(long)]
    apply: bool,
    /// Only this class. Repeatable; by default generations, images and temp.
    #[arg(long, value_enum, value_name = "CLASS")]
    only: Vec<OnlyClass>,
    /// How many of the last generations stay; the current one always does. [default: 3; with --above: 1]
    #[arg(long, value_name = "N")]
    keep_generations: Option<usize>,
    /// Only if the file system is fuller than this, and then the oldest first.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    above: Option<u8>,
    /// Until it is no fuller than this. [default: that of --above]
    #[arg(long, value_name = "PERCENT", value_parser = percent, requires = "above")]
    down_to: Option<u8>,
    /// Keep the current generation only, and remove stopped containers of superseded images. Still spares volumes, what is
    /// not ours and what is used.
    #[arg(long, conflicts_with_all = ["only", "keep_generations", "above"])]
    aggressive: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OnlyClass {
    /// Generations but for the last ones.
    Generations,
    /// Images that no kept generation has.
    Images,
    /// Stopped containers of superseded images.
    Containers,
    /// Leftovers of killed runs, and layers that a load left in Podman without an image.
    Temp,
    /// Networks of the modules that no unit makes any more and no container is in.
    Networks,
}

impl From<OnlyClass> for GarbageClass {
    fn from(class: OnlyClass) -> Self {
        match class {
            OnlyClass::Generations => Self::Generations,
            OnlyClass::Images => Self::Images,
            OnlyClass::Containers => Self::Containers,
            OnlyClass::Temp => Self::Temp,
            OnlyClass::Networks => Self::Networks,
        }
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| "expected a percentage like 85%".to_owned())
}

/// One removal, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GcRow<'a> {
    #[serde(flatten)]
    removal: &'a Removal,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The whole clean-up, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GcReport<'a> {
    applied: bool,
    keep: &'a [KeptItem],
    remove: Vec<GcRow<'a>>,
    not_ours: NotOurs,
    /// So many percent are in use, which is not above the watermark.
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<u8>,
    warnings: &'a [String],
    bytes: u64,
    collectable: u64,
}

pub(super) fn run(args: &GcArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let request = request(args)?;
    let host = match args.into.choose(&args.host, progress)? {
        ChosenEngine::Podman => args.host.host(progress)?,
        ChosenEngine::Crio(host) => {
            refuse_what_only_podman_can(EngineKind::Crio, &request, args)?;
            *host
        }
        ChosenEngine::Daemon(host) => return in_daemon(&host, &request, args, printer, session),
    };
    if !args.apply || (args.aggressive && !args.yes) {
        let plan = host.plan_gc(&request, progress)?;
        let planned = plan.remove.iter().map(|removal| GcRow { removal, removed: false, error: None }).collect();
        if !args.apply {
            return report(&plan, planned, args, printer);
        }
        if !stdin().is_terminal() {
            return Err(usage("--aggressive asks first, and there is no terminal; add --yes"));
        }
        print_plan(&plan, printer)?;
        plan.remove.iter().try_for_each(|removal| printer.line(line("remove", removal)))?;
        printer.flush()?;
        if !agreed(plan.remove.len(), printer)? {
            return printer.line("nothing was removed");
        }
    }
    let drawing = session.draw("cleaning up");
    let mut done = |removed: &Removed| {
        if !printer.json() {
            let said = drawing.beside(|| match &removed.error {
                None => printer.line(line("removed", &removed.removal)).and_then(|()| printer.flush()),
                Some(error) => {
                    printer.note(format!("{}: {error}", removed.removal.name));
                    Ok(())
                }
            });
            drop(said);
        }
    };
    if !printer.json() && request.classes.iter().eq([&GarbageClass::Temp]) {
        printer.line("Cleaning up temporary build artifacts only…")?;
    }
    let (plan, removed) = host.gc(&request, &mut done, progress)?;
    drop(drawing);
    let row = |removed| {
        let Removed { removal, error }: &Removed = removed;
        GcRow { removal, removed: error.is_none(), error: error.as_ref().map(ToString::to_string) }
    };
    report(&plan, removed.iter().map(row).collect(), args, printer)?;
    let left = removed.iter().filter(|removed| removed.error.is_some()).count();
    if left > 0 {
        return Err(failed(format!("{} could not be removed", count(left, "thing"))));
    }
    Ok(())
}

/// Containers and networks are the kubelet's, or another program's.
fn refuse_what_only_podman_can(engine: EngineKind, request: &GcRequest, args: &GcArgs) -> Result<()> {
    let has = |class| request.classes.contains(&class) && !args.only.is_empty();
    let refused = [
        (args.aggressive, "--aggressive"),
        (args.above.is_some() && engine != EngineKind::Crio, "--above"),
        (has(GarbageClass::Containers), "--only containers"),
        (has(GarbageClass::Networks), "--only networks"),
    ];
    match refused.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(daemon::unsupported(engine, option)),
        None => Ok(()),
    }
}

/// The same in a daemon.
fn in_daemon(
    host: &DaemonHost,
    request: &GcRequest,
    args: &GcArgs,
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let progress = session.progress();
    refuse_what_only_podman_can(host.daemon.kind(), request, args)?;
    if !args.apply {
        let plan = daemon::plan_gc(host, request, progress)?;
        let planned = plan.remove.iter().map(|removal| GcRow { removal, removed: false, error: None }).collect();
        return report(&plan, planned, args, printer);
    }
    let drawing = session.draw("cleaning up");
    let _lock = host.generations().lock(progress)?;
    let settled = host.settle(progress)?;
    let mut plan = daemon::plan_gc(host, request, progress)?;
    plan.warnings.extend(settled);
    let mut rows = Vec::new();
    let mut left = 0;
    for removal in &plan.remove {
        progress.check()?;
        // A generation says that an image is ours.
        let error = match removal.class {
            GarbageClass::Generations if left > 0 => Some("it stays until its images are gone".to_owned()),
            _ => daemon::remove(host, removal, progress).err().map(|error| error.to_string()),
        };
        left += usize::from(error.is_some());
        if !printer.json() {
            drop(drawing.beside(|| match &error {
                None => printer.line(line("removed", removal)).and_then(|()| printer.flush()),
                Some(error) => {
                    printer.note(format!("{}: {error}", removal.name));
                    Ok(())
                }
            }));
        }
        rows.push(GcRow { removal, removed: error.is_none(), error });
    }
    drop(drawing);
    report(&plan, rows, args, printer)?;
    if left > 0 { Err(failed(format!("{} could not be removed", count(left, "thing")))) } else { Ok(()) }
}

fn request(args: &GcArgs) -> Result<GcRequest> {
    let classes = match (args.aggressive, args.only.is_empty()) {
        (true, _) => GarbageClass::ALL.into(),
        (false, true) => GarbageClass::USUAL.into(),
        (false, false) => args.only.iter().map(|class| GarbageClass::from(*class)).collect(),
    };
    let watermarks = args.above.map(|above| (above, args.down_to.unwrap_or(above)));
    if let Some((above, down_to)) = watermarks.filter(|(above, down_to)| down_to > above) {
        return Err(usage(format!("--down-to {down_to}% is more than --above {above}%; give less")));
    }
    let keep = match (args.aggressive, watermarks) {
        (true, _) => 0,
        (false, Some(_)) => 1,
        (false, None) => gc::KEEP,
    };
    let keep = args.keep_generations.unwrap_or(keep);
    Ok(GcRequest { classes, keep, watermarks, others: OtherUsers::default() })
}

/// What is cleaned up unless told otherwise, so that the last `keep` generations stay.
pub(super) fn usual(keep: usize) -> GcRequest {
    GcRequest { classes: GarbageClass::USUAL.into(), keep, watermarks: None, others: OtherUsers::default() }
}

fn agreed(number: usize, printer: &Printer) -> Result<bool> {
    printer.note(format!("Remove {}? Type yes:", count(number, "thing")));
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

fn line(verb: &str, removal: &Removal) -> String {
    let nix = match removal.collectable {
        0 => String::new(),
        bytes => format!(", and Nix may collect {} more", size(bytes)),
    };
    format!("{verb} {}: frees {}{nix}", removal.name, size(removal.bytes))
}

fn print_plan(plan: &GcPlan, printer: &Printer) -> Result<()> {
    plan.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    plan.keep.iter().try_for_each(|kept| printer.line(format!("keep {}: {}", kept.name, kept.why)))
}

fn report(plan: &GcPlan, rows: Vec<GcRow<'_>>, args: &GcArgs, printer: &Printer) -> Result<()> {
    let gone: Vec<&Removal> = rows.iter().filter(|row| row.removed || !args.apply).map(|row| row.removal).collect();
    let bytes = gone.iter().map(|removal| removal.bytes).sum();
    let collectable = gone.iter().map(|removal| removal.collectable).sum();
    if printer.json() {
        let GcPlan { keep, not_ours, full, warnings, .. } = plan;
        let (applied, not_ours, full) = (args.apply, *not_ours, *full);
        return printer.value(&GcReport { applied, keep, remove: rows, not_ours, full, warnings, bytes, collectable });
    }
    if let Some(full) = plan.full {
        return printer.line(format!("{full}% in use, not above {}%; nothing to remove", args.above.unwrap_or(100)));
    }
    print_plan(plan, printer)?;
    if !args.apply {
        gone.iter().try_for_each(|removal| printer.line(line("remove", removal)))?;
    }
    let not_ours = plan.not_ours;
    printer.line(format!("not ours: {}, {}", count(not_ours.images, "image"), size(not_ours.bytes)))?;
    if args.apply && !args.aggressive && gone.len() == rows.len() {
        printer.line("Cleaned temporary artifacts, preserved base images")?;
    }
    let number = |class| gone.iter().filter(|removal| removal.class == class).count();
    let nix = if collectable > 0 { format!(", and Nix may collect {} more", size(collectable)) } else { String::new() };
    let (verb, freed, end) = match args.apply {
        true => ("removed", "freed", ""),
        false => ("would remove", "would free", "; nothing was changed, --apply does it"),
    };
    let networks = match number(GarbageClass::Networks) {
        0 => String::new(),
        networks => format!(", {}", count(networks, "network")),
    };
    printer.line(format!(
        "{verb} {}, {}, {}, {}{networks}; {freed} {}{nix}{end}",
        count(number(GarbageClass::Images), "image"),
        count(number(GarbageClass::Generations), "generation"),
        count(number(GarbageClass::Containers), "container"),
        count(number(GarbageClass::Temp), "leftover"),
        size(bytes),
    ))
}
