//! The types of the fields, of all readers together.

/// What a value must be. `null` is always right.
pub(crate) enum Type {
    /// A string.
    String,
    /// `true` or `false`.
    Bool,
    /// Go's `int64`.
    Int,
    /// Go's `time.Time`.
    Time,
    /// Go's `[]byte`.
    Bytes,
    /// A list of these.
    List(&'static Self),
    /// An object with any keys, and these as values.
    Map(&'static Self),
    /// An object whose known keys have these types.
    Object(Fields),
}

type Fields = &'static [(&'static str, Type)];

use Type::{Bool, Bytes, Int, List, Map, Object, String, Time};

const STRINGS: Type = List(&String);
const TEXTS: Type = Map(&String);
/// `map[string]struct{}`: the keys are what counts.
const SET: Type = Map(&Object(&[]));

pub(crate) const CONFIG: Fields = &[
    ("created", Time),
    ("author", String),
    ("architecture", String),
    ("variant", String),
    ("os", String),
    ("os.version", String),
    ("os.features", STRINGS),
    ("config", Object(CONTAINER)),
    ("rootfs", Object(&[("type", String), ("diff_ids", STRINGS)])),
    ("history", List(&Object(HISTORY))),
    ("id", String),
    ("parent", String),
    ("comment", String),
    ("container", String),
    ("container_config", Object(CONTAINER)),
    ("docker_version", String),
    ("size", Int),
];

const HISTORY: Fields =
    &[("created", Time), ("created_by", String), ("author", String), ("comment", String), ("empty_layer", Bool)];

const CONTAINER: Fields = &[
    ("Hostname", String),
    ("Domainname", String),
    ("User", String),
    ("AttachStdin", Bool),
    ("AttachStdout", Bool),
    ("AttachStderr", Bool),
    ("ExposedPorts", SET),
    ("Tty", Bool),
    ("OpenStdin", Bool),
    ("StdinOnce", Bool),
    ("Env", STRINGS),
    ("Cmd", STRINGS),
    ("Healthcheck", Object(HEALTH)),
    ("ArgsEscaped", Bool),
    ("Image", String),
    ("Volumes", SET),
    ("WorkingDir", String),
    ("Entrypoint", STRINGS),
    ("NetworkDisabled", Bool),
    ("MacAddress", String),
    ("OnBuild", STRINGS),
    ("Labels", TEXTS),
    ("StopSignal", String),
    ("StopTimeout", Int),
    ("Shell", STRINGS),
];

/// Durations are nanoseconds.
const HEALTH: Fields = &[
    ("Test", STRINGS),
    ("StartPeriod", Int),
    ("StartInterval", Int),
    ("Interval", Int),
    ("Timeout", Int),
    ("Retries", Int),
];

pub(crate) const MANIFEST: Fields = &[
    ("schemaVersion", Int),
    ("mediaType", String),
    ("artifactType", String),
    ("config", Object(DESCRIPTOR)),
    ("layers", List(&Object(DESCRIPTOR))),
    ("subject", Object(DESCRIPTOR)),
    ("annotations", TEXTS),
];

pub(crate) const INDEX: Fields = &[
    ("schemaVersion", Int),
    ("mediaType", String),
    ("artifactType", String),
    ("manifests", List(&Object(DESCRIPTOR))),
    ("subject", Object(DESCRIPTOR)),
    ("annotations", TEXTS),
];

const DESCRIPTOR: Fields = &[
    ("mediaType", String),
    ("digest", String),
    ("size", Int),
    ("urls", STRINGS),
    ("annotations", TEXTS),
    ("data", Bytes),
    ("artifactType", String),
    ("platform", Object(PLATFORM)),
];

const PLATFORM: Fields = &[
    ("architecture", String),
    ("os", String),
    ("os.version", String),
    ("os.features", STRINGS),
    ("variant", String),
    ("features", STRINGS),
];
