//! A shim: everything is in the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    windlass::cli::main(std::env::args_os())
}
