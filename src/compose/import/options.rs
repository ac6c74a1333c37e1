//! Keys of a service that are options of `podman run`, and keys that mean nothing to Podman.

use super::account::PlacedValue;
use super::context::{Draft, ImportContext, NOT_COPIED};
use crate::compose::read::ComposeImportError;
use crate::secrets::values::is_secret;

/// Keys with one value.
const SCALARS: [(&str, &str); 17] = [
    ("cgroup", "--cgroupns"),
    ("cgroup_parent", "--cgroup-parent"),
    ("cpu_period", "--cpu-period"),
    ("cpu_quota", "--cpu-quota"),
    ("cpu_rt_period", "--cpu-rt-period"),
    ("cpu_rt_runtime", "--cpu-rt-runtime"),
    ("cpu_shares", "--cpu-shares"),
    ("cpuset", "--cpuset-cpus"),
    ("ipc", "--ipc"),
    ("mac_address", "--mac-address"),
    ("mem_reservation", "--memory-reservation"),
    ("mem_swappiness", "--memory-swappiness"),
    ("memswap_limit", "--memory-swap"),
    ("oom_score_adj", "--oom-score-adj"),
    ("pid", "--pid"),
    ("userns_mode", "--userns"),
    ("uts", "--uts"),
];

/// Keys with `true` or `false`.
const FLAGS: [(&str, &str); 3] =
    [("oom_kill_disable", "--oom-kill-disable"), ("stdin_open", "--interactive"), ("tty", "--tty")];

/// Keys with a list.
const LISTS: [(&str, &str); 6] = [
    ("device_cgroup_rules", "--device-cgroup-rule"),
    ("dns", "--dns"),
    ("dns_opt", "--dns-option"),
    ("dns_search", "--dns-search"),
    ("expose", "--expose"),
    ("group_add", "--group-add"),
];

/// Keys with names and values.
const PAIRS: [(&str, &str); 2] = [("annotations", "--annotation"), ("sysctls", "--sysctl")];

/// Keys that have nothing to go to.
const NOTHING: [(&str, &str); 19] = [
    ("attach", "is about the terminal of `compose up`; the journal has the output of every container"),
    ("cpu_count", "is for Windows"),
    ("cpu_percent", "is for Windows"),
    ("credential_spec", "is for Windows"),
    ("develop", "is for `compose watch`"),
    ("domainname", "Podman has no option for it: write it into hostname"),
    ("external_links", "Podman has no links: put both containers into one network"),
    ("isolation", "is for Windows"),
    ("logging", "the journal has the output of every container: journalctl -u podman-NAME"),
    ("models", "starts models with Docker Model Runner; see services.ai-stack.<service>.models"),
    ("platform", "an image is built for the host that it runs on"),
    ("post_start", "Podman runs nothing after the start: use a unit of your own, with `after`"),
    ("pre_stop", "Podman runs nothing before the stop: use ExecStop of the unit"),
    ("runtime", "is chosen for all of Podman, in containers.conf; GPUs are devices with CDI names"),
    ("storage_opt", "is chosen for all of Podman, in storage.conf"),
    ("use_api_socket", "Docker's socket is not there; see virtualisation.podman.dockerSocket"),
    ("volume_driver", "volumes with a driver are made with `podman volume create`"),
    ("label_file", "is read when compose runs: write the labels into labels"),
    ("net", "is of an old version: use network_mode"),
];

/// Converts such a key; what is in no table gets its row at the end.
pub(crate) fn key(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    key: &str,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let find = |table: &[(&str, &'static str)]| table.iter().find(|(name, _)| *name == key).map(|(_, flag)| *flag);
    if let Some(flag) = find(&SCALARS) {
        if let Some(text) = cx.plain(at)? {
            let text =
                if matches!(key, "ipc" | "pid" | "uts" | "userns_mode") { namespace(cx, draft, &text) } else { text };
            if let Some(service) = text.strip_prefix("service:") {
                cx.account.leave(at, format!("{service} is not taken over"));
                return Ok(());
            }
            let to = draft.option(flag, &text);
            cx.account.take(at, to, "");
        }
    } else if let Some(flag) = find(&FLAGS) {
        match cx.boolean(at)? {
            Some(true) => {
                let to = draft.option(flag, "");
                cx.account.take(at, to, "");
            }
            Some(false) => cx.account.take(at, "", ""),
            None => {}
        }
    } else if let Some(flag) = find(&LISTS) {
        for (item, text) in cx.strings(at)? {
            let to = draft.option(flag, &text);
            cx.account.take(&item, to, "");
        }
    } else if let Some(flag) = find(&PAIRS) {
        for (item, name, value) in cx.pairs(at)? {
            let value = value.unwrap_or_default();
            if is_secret(&name, &value.value) {
                cx.account.leave(&item, format!("looks like a secret: {NOT_COPIED}"));
            } else if let Some(value) = cx.open_free(&item, value) {
                let to = draft.option(flag, &format!("{name}={value}"));
                cx.account.take(&item, to, "");
            }
        }
    } else if key == "security_opt" {
        security(cx, draft, at)?;
    } else if let Some(why) = find(&NOTHING) {
        cx.account.leave(at, why);
    }
    Ok(())
}

/// `service:db` is `container:NAME` for Podman.
pub(crate) fn namespace(cx: &ImportContext<'_>, draft: &mut Draft, text: &str) -> String {
    let service = text.strip_prefix("service:").and_then(|service| cx.container(service));
    let Some(container) = service else { return text.to_owned() };
    depend(draft, &container);
    format!("container:{container}")
}

/// Starts another container first.
pub(crate) fn depend(draft: &mut Draft, container: &str) {
    if container != draft.container && !draft.service.depends_on.iter().any(|other| other == container) {
        draft.service.depends_on.push(container.to_owned());
        draft.service.depends_on.sort();
    }
}

fn security(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (item, text) in cx.strings(at)? {
        // Docker takes ':' as well as '='.
        let (name, value) = text.split_once(['=', ':']).unwrap_or((&text, ""));
        match (name, value) {
            ("no-new-privileges", value) => {
                draft.service.no_new_privileges = Some(value != "false");
                cx.account.take(&item, "noNewPrivileges", "");
            }
            ("seccomp", file) if file != "unconfined" => match cx.host_path(item.node.mark, file) {
                Ok(file) => {
                    let to = draft.option("--security-opt", &format!("seccomp={file}"));
                    cx.account.take(&item, to, "");
                }
                Err(why) => cx.account.leave(&item, why),
            },
            (name, value) => {
                let to = draft.option("--security-opt", &format!("{name}={value}"));
                cx.account.take(&item, to, "");
            }
        }
    }
    Ok(())
}
