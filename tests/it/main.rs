//! All integration tests, one binary: a file per subject, and what they share in `env` and `engine`.
//!
//! They run real Nix, Podman, skopeo and umoci, and need root for mounts; `./dev test` installs what is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accel;
mod ai_stack;
mod ai_stack_checks;
mod architecture;
mod bad_input;
mod bad_registry;
mod cli;
mod compose;
mod compose_export;
mod compose_keys;
mod determinism;
mod doctor;
mod engine;
mod env;
mod fetch;
mod flake;
mod forbid;
mod foreign;
mod gc;
mod generations;
mod golden;
mod lab;
mod load;
mod load_faults;
mod load_names;
mod load_options;
mod machine;
mod mirror;
mod model;
mod model_files;
mod model_forms;
mod model_fuzz;
mod model_inspect;
mod model_large;
mod model_ollama;
mod model_oracle;
mod model_serve;
mod model_split;
mod model_writer;
mod modules;
mod modules_checks;
mod nix;
mod ollama_checker;
mod oracle;
mod parallel;
mod podman;
mod probe;
mod pull;
mod push;
mod registry;
mod registry_faults;
mod registry_login;
mod registry_server;
mod repair;
mod services;
mod status;
mod unpack;
mod unpack_load;
mod upstream;
mod upstream_faults;
mod upstream_image;
mod upstream_images;
