//! `windlass model use`

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use super::super::failure::Result;
use crate::cli::complete;
use crate::cli::host::HostArgs;
use crate::cli::printer::Printer;
use crate::cli::session::Session;
use crate::podman::slots::DEFAULT_SLOT;
use crate::podman::slots::switch::{EmbeddingChange, Stage, Used, Wish};
use crate::podman::slots::unit::SlotService;

const EXAMPLE: &str = "Examples:
  windlass model list
  windlass model use qwen3 --restart llama
  windlass model use qwen3 --slot chat --restart podman-llama-cpp.service --health-timeout 300

A container binds the slot once, and sees another model after a restart:
  podman run -v /var/lib/containers/storage/windlass/models/chat/file:/models/model.gguf:ro …
                                                       chat/tree:/models:ro for a model of several files
Neither :z nor :U may be given with it. A model that Podman unpacked (pulled) can be mounted as an image too:
  podman run --mount type=image,source=localhost/windlass/chat:active,destination=/model …
where it is whole: a file that the image has at /models is at /model/models.";

/// Make a loaded model the active one of a slot, and restart what uses it.
///
/// Nothing is built, downloaded or copied, and no image changes. A slot is a path, or an image's name, that a container
/// has mounted once; it is made to lead to the model, the service is restarted once and watched until it is healthy (its
/// health checks pass; without any, it has run for 5 seconds). If it is not, the former model is active again, the
/// service is restarted with it, and the exit code is 1. Nothing is done if the model is active already.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelUseArgs {
    /// The model, as `windlass model list` names it.
    #[arg(add = complete::loaded_models())]
    model: String,
    /// The slot.
    #[arg(add = complete::slots(), long, value_name = "SLOT", default_value = DEFAULT_SLOT)]
    slot: String,
    /// What to restart: a container, or a unit of systemd (a name that ends with .service). For a container that a unit
    /// runs, that unit is restarted.
    #[arg(long, value_name = "CONTAINER|UNIT")]
    restart: Option<String>,
    /// The unit is one of this user's own systemd.
    #[arg(long, requires = "restart")]
    user: bool,
    /// How many seconds the service may take to become healthy, once it was stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "restart")]
    health_timeout: u32,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &ModelUseArgs, printer: &Printer, session: &Session) -> Result<()> {
    let host = args.host.host(session.progress())?;
    let service = args.restart.as_ref().map(|name| match name.ends_with(".service") {
        true => SlotService::Unit { name: name.clone(), user: args.user },
        false => SlotService::Container(name.clone()),
    });
    let wish = Wish {
        model: &args.model,
        slot: &args.slot,
        service: service.as_ref(),
        timeout: Duration::from_secs(args.health_timeout.into()),
        dry_run: args.dry_run,
    };
    let mut told = |stage: Stage<'_>| {
        if let Stage::Embedding(EmbeddingChange { from, to }) = stage {
            printer.note(format!(
                "warning: embeddings of {} have {to} numbers, and those of the model before had {from}: vectors that were stored \
                 with that cannot be searched with this; make them anew",
                args.model
            ));
        } else if stderr().is_terminal() {
            printer.note(match stage {
                Stage::Restarting(service, model) => format!("restarting {service} with model {model}"),
                Stage::Embedding(_) => return,
                Stage::Watching(service) => format!("waiting until {service} is healthy"),
                Stage::GoingBack(service, model, why) => format!("{service} is not healthy with model {model}: {why}"),
            });
        }
    };
    let used = host.use_model(&wish, &mut told, session.progress())?;
    used.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    if printer.json() {
        return printer.value(&used);
    }
    let Used { slot, path, active, former, .. } = &used;
    let model = &active.entry.name;
    let before = former.as_ref().filter(|former| *model != **former);
    let before = before.map(|former| format!(", instead of {former}")).unwrap_or_default();
    if args.dry_run && used.changed {
        let service =
            used.service.as_ref().map(|service| format!("; {service} would be restarted")).unwrap_or_default();
        return printer
            .line(format!("model {model} would be active in slot {slot}{before}{service}; nothing was done"));
    }
    printer.line(match (used.changed, &used.service) {
        (false, _) => format!("model {model} is active in slot {slot} already; nothing was done"),
        (true, Some(service)) => {
            let ms = used.healthy_after_ms.unwrap_or_default();
            format!(
                "model {model} is active in slot {slot}{before}; {service} was restarted once and is healthy, after {}.{} s",
                ms / 1000,
                ms / 100 % 10
            )
        }
        (true, None) => format!(
            "model {model} is active in slot {slot}{before}: {}; what uses it sees it after a restart",
            path.display()
        ),
    })
}
