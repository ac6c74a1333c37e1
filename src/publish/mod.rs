//! Images and models in the forms that other tools and registries take.

pub(crate) mod model_dir;
pub(crate) mod model_forms;
pub(crate) mod ollama_layer;
pub(crate) mod pack;
pub(crate) mod packed_map;
pub(crate) mod push;
