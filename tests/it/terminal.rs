//! What a terminal is shown: a progress line that never stands still, and colour for what is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::engine::{Podman, text};

/// A command on a terminal of its own; what that shows.
fn on_terminal(command: &Command) -> String {
    let mut terminal = Command::new("python3");
    terminal.args(["-c", "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"]);
    terminal.arg(command.get_program()).args(command.get_args()).env_clear().env("TERM", "xterm");
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.current_dir(command.get_current_dir().unwrap()).stdin(std::process::Stdio::null());
    let Output { stdout, stderr, .. } = terminal.output().unwrap();
    [text(&stdout), text(&stderr)].concat()
}

/// A `PATH` on which this program takes two seconds more.
fn slow(podman: &Podman, program: &str) -> String {
    let path = std::env::var("PATH").unwrap();
    let file = podman
        .env
        .write(format!("slow/{program}"), format!("#!/bin/sh\nsleep 2.5\nPATH='{path}'\nexec {program} \"$@\"\n"));
    fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{path}", podman.env.path("slow").display())
}

#[test]
fn a_load_says_that_podman_unpacks_and_for_how_long() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "app");
    let path = slow(&podman, "skopeo");
    let load = |options: &[&str]| {
        let mut load =
            podman.windlass(&[&["load", image.to_str().unwrap(), "--via", "podman", "--force"], options].concat());
        load.env("PATH", &path);
        load
    };
    let shown = on_terminal(&load(&[]));
    assert!(shown.contains("Podman unpacks localhost/app:1 (") && shown.contains(" MB), 1 s"), "{shown:?}");
    assert!(shown.contains("1 loaded"), "{shown:?}");
    let quiet = on_terminal(&load(&["--quiet"]));
    assert!(quiet.contains("1 loaded") && !quiet.contains("unpacks"), "{quiet:?}");
    let piped = load(&[]).output().unwrap();
    assert_eq!((piped.status.code(), text(&piped.stderr).contains("unpacks")), (Some(0), false), "{piped:?}");
}

#[test]
fn what_is_wrong_has_a_colour_on_a_terminal_alone() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "app");
    let status = |options: &[&str]| podman.windlass(&[&["status", image.to_str().unwrap()], options].concat());
    let red = "\u{1b}[31m";
    let shown = on_terminal(&status(&[]));
    assert!(shown.contains(&format!("{red}missing")), "{shown:?}");
    for none in [on_terminal(status(&[]).env("NO_COLOR", "1")), on_terminal(&status(&["--color", "never"]))] {
        assert!(none.contains("missing") && !none.contains('\u{1b}'), "{none:?}");
    }
    let piped = |options: &[&str]| text(&status(options).output().unwrap().stdout);
    assert!(!piped(&[]).contains('\u{1b}') && piped(&["--color", "always"]).contains(red));
}
