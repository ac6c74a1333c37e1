//! What the integration tests (`tests/it`) and the fuzz targets (`fuzz/`) use of the wings, in modules that are called like theirs.
//!
//! Nothing else of the wings is public, so that the compiler finds what the program does not use. windlass has one interface for
//! others, its command line: nothing here is promised to stay.

#![expect(missing_docs, reason = "a module here is called like the one that it shows, and is about the same")]

pub mod build {
    pub mod stack {
        pub use crate::build::stack::{StackDir, StackJson, read_services};
    }
}
pub mod cache {
    pub mod ignore {
        pub use crate::cache::ignore::IgnoreRules;
    }
}
pub mod class {
    pub use crate::class::{Class, Classified};
}
pub mod compose {
    pub mod export {
        pub use crate::compose::export::export;
    }
    pub mod import {
        pub use crate::compose::import::{ImportOptions, Imported, import};
        pub mod account {
            pub use crate::compose::import::account::Fate;
        }
        pub mod nix {
            pub use crate::compose::import::nix::Set;
        }
    }
    pub mod read {
        pub use crate::compose::read::ImportOptions;
        pub mod variables {
            pub use crate::compose::read::variables::{ComposeVariables, interpolate, parse_env_file};
        }
        pub mod yaml {
            pub use crate::compose::read::yaml::{YamlNode, YamlValue, parse};
        }
    }
}
pub mod daemon {
    pub use crate::daemon::host::DaemonHost;
    pub use crate::daemon::{Daemon, DaemonContainer, DaemonContent, DaemonError, DaemonImages, own_name};
}
pub mod disk {
    pub use crate::disk::WriteError;
    pub mod beneath {
        pub use crate::disk::beneath::Dir;
    }
    pub mod lock_file {
        pub use crate::disk::lock_file::{LockFile, parse, to_text};
    }
    pub mod pipe {
        pub use crate::disk::pipe::{PipeError, Readers};
    }
    pub mod progress {
        pub use crate::disk::progress::Progress;
    }
    pub mod served {
        pub use crate::disk::served::ServedPlace;
    }
    pub mod size {
        pub use crate::disk::size::size;
    }
}
pub mod engine {
    pub use crate::engine::{Engine, Former};
    pub mod generation {
        pub use crate::engine::generation::GenerationEntry;
    }
    pub mod generations {
        pub use crate::engine::generations::{GenerationError, Generations};
    }
    pub mod keep {
        pub use crate::engine::keep::History;
    }
    pub mod kind {
        pub use crate::engine::kind::EngineKind;
    }
    pub mod load {
        pub use crate::engine::load::{LoadResult, Loading, load};
    }
    pub mod process {
        pub use crate::engine::process::ProgramError;
    }
    pub mod rollback {
        pub use crate::engine::rollback::{RollbackPart, activate, parts};
    }
    pub mod target {
        pub use crate::engine::target::{
            DecideError, LoadMethod, LoadOptions, LoadReason, LoadStep, LoadTarget, LoadWay, Presence, TargetState,
            plan,
        };
    }
}
pub mod image {
    pub use crate::image::LayerRecord;
    pub mod layout {
        pub use crate::image::layout::{ImageDir, LayoutError};
    }
    pub mod summary {
        pub use crate::image::summary::PlatformRecord;
    }
}
pub mod layer {
    pub use crate::layer::{
        FORMAT, Input, LayerError, MemberContent, Recipe, Sink, TRAILER, TarEntry, TarEntryKind, digest_of, header,
        measure, secrets,
    };
    pub mod output {
        pub use crate::layer::output::Verify;
    }
    pub mod patch {
        pub use crate::layer::patch::{OldBlocks, OldBytes, OldLayer, PatchWriter, PatchedLayer};
    }
}
pub mod model {
    pub mod forms {
        pub mod artifact {
            pub use crate::model::forms::artifact::Artifact;
        }
        pub mod docker_model {
            pub use crate::model::forms::docker_model::docker_model;
        }
        pub mod gguf_split {
            pub use crate::model::forms::gguf_split::split;
        }
        pub mod modelpack {
            pub use crate::model::forms::modelpack::modelpack;
        }
        pub mod ollama {
            pub use crate::model::forms::ollama::OllamaName;
        }
    }
    pub mod licence {
        pub use crate::model::licence::spdx;
    }
    pub mod pin {
        pub mod lock {
            pub use crate::model::pin::lock::ModelLock;
        }
        pub mod source {
            pub use crate::model::pin::source::{HUB, PinSource};
        }
    }
    pub mod read {
        pub mod cursor {
            pub use crate::model::read::cursor::HeaderError;
        }
        pub mod facts {
            pub use crate::model::read::facts::Facts;
        }
        pub mod ggml {
            pub use crate::model::read::ggml::{file_type, tensor_type};
        }
        pub mod gguf {
            pub use crate::model::read::gguf::{GgufHeader, GgufTensor};
        }
        pub mod gguf_values {
            pub use crate::model::read::gguf_values::{GgufKind, GgufValue};
        }
        pub mod inspect {
            pub use crate::model::read::inspect::{inspect, inspect_set};
        }
        pub mod safetensors {
            pub use crate::model::read::safetensors::{SafetensorsHeader, bits};
        }
        pub mod shards {
            pub use crate::model::read::shards::ShardName;
        }
        pub mod sniff {
            pub use crate::model::read::sniff::sniff;
        }
    }
}
pub mod names {
    pub use crate::names::{Name, RelativePath, is_unprintable};
}
pub mod nix {
    pub mod closure {
        pub use crate::nix::closure::ClosureGraph;
    }
    pub mod nar {
        pub use crate::nix::nar::nar_hash;
    }
    pub mod store {
        pub use crate::nix::store::{NixPlaces, fitting_name};
    }
    pub mod store_path {
        pub use crate::nix::store_path::{NarHash, StoreDir, StorePath};
        pub mod nixbase32 {
            pub use crate::nix::store_path::nixbase32::{decode, encode};
        }
    }
}
pub mod oci {
    pub mod canonical {
        pub use crate::oci::canonical::{to_bytes, to_pretty};
    }
    pub mod compression {
        pub use crate::oci::compression::Compression;
    }
    pub mod digest {
        pub use crate::oci::digest::{Digest, to_hex};
    }
    pub mod platform {
        pub use crate::oci::platform::Platform;
    }
    pub mod reference {
        pub use crate::oci::reference::{Reference, Repository, is_floating, is_name, is_registry, is_repository};
    }
    pub mod strict {
        pub use crate::oci::strict::{DocumentKind, check, check_image, is_time};
    }
}
pub mod plan {
    pub mod closure_split {
        pub use crate::plan::closure_split::{SplitRequest, split};
    }
    pub mod plan_lock {
        pub use crate::plan::plan_lock::{ClosureLayers, PlanLock};
    }
}
pub mod podman {
    pub mod linked {
        pub use crate::podman::linked::LinkedStore;
        pub mod check_tree {
            pub use crate::podman::linked::check_tree::check;
        }
        pub mod link_images {
            pub use crate::podman::linked::link_images::link;
        }
        pub mod unpack {
            pub use crate::podman::linked::unpack::{UnpackError, Unpacked, unpack};
        }
    }
    pub mod load {
        pub mod artifacts {
            pub use crate::podman::load::artifacts::add;
        }
        pub mod pull {
            pub use crate::podman::load::pull::{PullError, Pulled, pull};
        }
    }
    pub mod slots {
        pub use crate::podman::slots::{Slots, active};
    }
    pub mod storage {
        pub mod client {
            pub use crate::podman::storage::client::PodmanClient;
        }
        pub mod places {
            pub use crate::podman::storage::places::{Overrides, Places, state_of};
        }
        pub mod records {
            pub use crate::podman::storage::records::{StoreRecords, big_data_file};
        }
        pub mod storage_conf {
            pub use crate::podman::storage::storage_conf::{Missing, StorageConf, drop_in, with_store, without};
        }
    }
}
pub mod publish {
    pub mod model_dir {
        pub use crate::publish::model_dir::ModelDir;
    }
}
pub mod registry {
    pub mod blobs {
        pub use crate::registry::blobs::Fetched;
    }
    pub mod client {
        pub use crate::registry::client::RegistryClient;
    }
    pub mod credentials {
        pub use crate::registry::credentials::Secret;
    }
    pub mod error {
        pub use crate::registry::error::RegistryError;
    }
    pub mod location {
        pub use crate::registry::location::Location;
    }
    pub mod options {
        pub use crate::registry::options::{ProxyOptions, RegistryOptions, Waits};
    }
}
pub mod secrets {
    pub use crate::secrets::SecretFinding;
    pub mod values {
        pub use crate::secrets::values::{in_value, words};
    }
}
pub mod sh {
    pub use crate::sh::{line, word};
}
pub mod signing {
    pub mod key {
        pub use crate::signing::key::SignatureKey;
    }
}
pub mod spec {
    pub use crate::spec::Spec;
    pub mod service {
        pub use crate::spec::service::{ServiceConfig, check_all, is_time, seconds, split_port};
    }
}
pub mod upstream {
    pub mod check {
        pub use crate::upstream::check::select;
    }
    pub mod document {
        pub use crate::upstream::document::{OCI_MANIFEST, TypedDocument, UpstreamDocument, is_index, read};
    }
    pub mod lock {
        pub use crate::upstream::lock::UpstreamLock;
    }
    pub mod state {
        pub use crate::upstream::state::UpstreamState;
    }
    pub mod versions {
        pub use crate::upstream::versions::{add, export, parse, wanted};
    }
}
