//! What all parts of an import share: the file, its variables, and the account.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::account::{Account, PlacedValue};
use super::known::KnownService;
use super::networks::Net;
use super::taint::{self, Tainted};
use crate::compose::read::ComposeImportError;
use crate::compose::read::Pinned;
use crate::compose::read::variables::{ComposeVariables, Text, interpolate, interpolate_hiding};
use crate::compose::read::yaml::{MAX_BYTES, Mark, YamlNode, YamlValue};
use crate::names::is_unprintable;
use crate::spec::service::{ServiceConfig, is_time, seconds};

/// The state of an import.
pub(crate) struct ImportContext<'a> {
    pub(crate) root: PlacedValue<'a>,
    pub(crate) account: Account,
    pub(crate) variables: ComposeVariables,
    /// The bytes of all values so far, with their variables put in.
    pub(crate) bytes: Cell<usize>,
    /// What relative paths of each file are relative to.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) project: String,
    /// Whether `windlass compose export` wrote the file: what it leaves out has Podman's defaults, not compose's.
    pub(crate) ours: bool,
    /// The files that were read; the first is the one that was asked for.
    pub(crate) files: Vec<String>,
    /// Service of the file → container, for those that are taken over.
    pub(crate) containers: BTreeMap<String, String>,
    /// Host path or volume → how many services mount it.
    pub(crate) mounted: BTreeMap<String, usize>,
    /// What is used of the top level, `volumes.data`.
    pub(crate) used: BTreeSet<String>,
    /// Variables without a value → where the first is.
    pub(crate) unset: BTreeMap<String, Mark>,
    /// Variables that the file demands.
    pub(crate) required: BTreeMap<String, (Mark, String)>,
    /// Directories and files of the host that containers mount.
    pub(crate) binds: BTreeMap<String, Mark>,
    /// Networks that must be there, and what becomes of them.
    pub(crate) networks: BTreeMap<String, Net>,
    /// Secrets that the file has written down.
    pub(crate) tainted: Tainted,
    /// The images of a lock.
    pub(crate) pinned: Pinned,
    /// Whether every service is one of the AI stack under its own name: they have a network already.
    pub(crate) only_ai_stack: bool,
    /// Services whose containers have a health check, for which those that depend on them wait.
    pub(crate) checked: BTreeSet<String>,
}

/// A service on its way.
pub(crate) struct Draft {
    /// Its name in the file.
    pub(crate) name: String,
    /// Its container.
    pub(crate) container: String,
    pub(crate) service: ServiceConfig,
    pub(crate) known: Option<&'static KnownService>,
    /// The port on the host, of a service of the AI stack.
    pub(crate) port: Option<u16>,
    /// The package that the AI stack is to have, where the image of the file has another program than its own.
    pub(crate) package: Option<&'static str>,
    /// The name of its image in the lock.
    pub(crate) pin: Option<String>,
    /// Whether its command had a secret that it has no more.
    pub(crate) lost_secret: bool,
    /// Comments before keys of the description.
    pub(crate) comments: BTreeMap<String, Vec<String>>,
}

impl Draft {
    pub(crate) fn comment(&mut self, key: &str, text: impl Into<String>) {
        self.comments.entry(key.to_owned()).or_default().push(text.into());
    }

    /// An option of `podman run`, and how the account calls it.
    pub(crate) fn option(&mut self, flag: &str, value: &str) -> String {
        let option = if value.is_empty() { flag.to_owned() } else { format!("{flag}={value}") };
        self.service.extra_options.push(option);
        format!("extraOptions {flag}")
    }
}

impl ImportContext<'_> {
    pub(crate) fn wrong(&self, at: &PlacedValue<'_>, message: impl Into<String>) -> ComposeImportError {
        let file = self.files.get(at.node.mark.file).cloned().unwrap_or_default();
        ComposeImportError::Shape { file, mark: at.node.mark, path: at.path.to_string(), message: message.into() }
    }

    /// The items of a list.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn items<'a>(&self, at: &PlacedValue<'a>) -> Result<Vec<PlacedValue<'a>>, ComposeImportError> {
        match at.node.value {
            YamlValue::List(_) => Ok(at.children().into_iter().map(|(_, item)| item).collect()),
            _ => Err(self.wrong(at, format!("expected a list, found {}", at.node.kind()))),
        }
    }

    /// A scalar with its variables put in.
    pub(crate) fn text(&self, at: &PlacedValue<'_>) -> Result<Text, ComposeImportError> {
        let YamlValue::Scalar { text, .. } = &at.node.value else {
            return Err(self.wrong(at, format!("expected a string, found {}", at.node.kind())));
        };
        self.interpolated(at, text)
    }

    /// A scalar with its variables put in, but for those that may be secrets: these stand in it by their names.
    pub(crate) fn hiding(&self, at: &PlacedValue<'_>) -> Result<Text, ComposeImportError> {
        let YamlValue::Scalar { text, .. } = &at.node.value else {
            return Err(self.wrong(at, format!("expected a string, found {}", at.node.kind())));
        };
        self.counted(at, interpolate_hiding(text, &self.variables))
    }

    pub(crate) fn interpolated(&self, at: &PlacedValue<'_>, text: &str) -> Result<Text, ComposeImportError> {
        let mut text = self.counted(at, interpolate(text, &self.variables))?;
        taint::find(&mut text, &self.tainted);
        Ok(text)
    }

    fn counted(&self, at: &PlacedValue<'_>, text: Result<Text, String>) -> Result<Text, ComposeImportError> {
        let text = text.map_err(|message| self.wrong(at, message))?;
        self.bytes.set(self.bytes.get() + text.value.len());
        if self.bytes.get() > 4 * MAX_BYTES {
            return Err(
                self.wrong(at, format!("with its variables put in, the file is larger than {} MiB", MAX_BYTES >> 18))
            );
        }
        Ok(text)
    }

    /// Notes that the value is used: variables that the file demands must be there then.
    pub(crate) fn demand(&mut self, at: &PlacedValue<'_>, text: &Text) {
        for name in &text.unset {
            self.unset.entry(name.clone()).or_insert(at.node.mark);
        }
        for (name, message) in &text.required {
            self.required.entry(name.clone()).or_insert((at.node.mark, message.clone()));
        }
    }

    /// A scalar that may be written to the configuration. If there is nothing, or a secret, the key has its row.
    pub(crate) fn plain(&mut self, at: &PlacedValue<'_>) -> Result<Option<String>, ComposeImportError> {
        if at.node.is_null() {
            self.account.leave(at, "has no value");
            return Ok(None);
        }
        let text = self.text(at)?;
        if text.value.contains(is_unprintable) {
            self.account.leave(at, "has a line break or another control character in it, which no unit can have there");
            return Ok(None);
        }
        Ok(self.open(at, text))
    }

    /// The same of a text that was taken apart.
    pub(crate) fn open(&mut self, at: &PlacedValue<'_>, text: Text) -> Option<String> {
        if let Some(variable) = &text.secret {
            self.account
                .leave(at, format!("has the value of {variable} in it, which looks like a secret: {NOT_COPIED}"));
            return None;
        }
        self.demand(at, &text);
        Some(text.value)
    }

    /// The same of a text that may be anything, so that what comes from a file of variables may be a secret in it.
    pub(crate) fn open_free(&mut self, at: &PlacedValue<'_>, text: Text) -> Option<String> {
        if let (None, Some(variable)) = (&text.secret, &text.private) {
            self.account.leave(at, private(variable));
            return None;
        }
        self.open(at, text)
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, at: &PlacedValue<'_>) -> Result<Option<bool>, ComposeImportError> {
        let Some(text) = self.plain(at)? else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "n" | "0" | "" => Ok(Some(false)),
            _ => Err(self.wrong(at, "expected true or false")),
        }
    }

    /// A number.
    pub(crate) fn number<T: std::str::FromStr>(
        &mut self,
        at: &PlacedValue<'_>,
    ) -> Result<Option<T>, ComposeImportError> {
        let Some(text) = self.plain(at)? else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| self.wrong(at, "expected a number"))
    }

    /// An amount of memory, as compose has it (`1.5gb`), in the form that the description has.
    pub(crate) fn size(&mut self, at: &PlacedValue<'_>) -> Result<Option<String>, ComposeImportError> {
        let Some(text) = self.plain(at)? else { return Ok(None) };
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.trim_end_matches('b').trim_end_matches('i').trim_end_matches(['k', 'm', 'g', 't']);
        let unit = lower[number.len()..].chars().next().filter(|unit| *unit != 'b');
        let (letter, factor) = match unit {
            Some('t') => ("g", 1024.0),
            Some('g') => ("g", 1.0),
            Some('m') => ("m", 1.0),
            Some('k') => ("k", 1.0),
            _ => ("", 1.0),
        };
        let number = number.trim();
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && number.len() < 16;
        let amount = number.parse::<f64>().ok().filter(|_| is_number).map(|amount| amount * factor);
        let Some(amount) = amount else { return Err(self.wrong(at, "expected a size like 512m or 2g")) };
        // What is not a whole number of a unit is one of the next smaller.
        let smaller = match letter {
            "g" => "m",
            "m" => "k",
            _ => "",
        };
        let whole = if amount.fract() == 0.0 {
            format!("{amount}{letter}")
        } else {
            format!("{:.0}{smaller}", amount * 1024.0)
        };
        Ok(Some(whole))
    }

    /// A time, as compose has it (`1.5s`), in the form that the description has.
    pub(crate) fn time(&mut self, at: &PlacedValue<'_>) -> Result<Option<String>, ComposeImportError> {
        let Some(text) = self.plain(at)? else { return Ok(None) };
        let Some(whole) = seconds(&text) else { return Err(self.wrong(at, "expected a time like 30s or 1m30s")) };
        Ok(Some(if is_time(&text) { text } else { format!("{whole}s") }))
    }

    /// One string or a list of them, each with where it is.
    pub(crate) fn strings<'n>(
        &mut self,
        at: &PlacedValue<'n>,
    ) -> Result<Vec<(PlacedValue<'n>, String)>, ComposeImportError> {
        let items = match &at.node.value {
            YamlValue::List(_) => at.children().into_iter().map(|(_, item)| item).collect(),
            YamlValue::Map(_) => return Err(self.wrong(at, "expected a string or a list of strings, found a mapping")),
            YamlValue::Scalar { .. } => vec![at.clone()],
        };
        let mut strings = Vec::new();
        for item in items {
            if let Some(text) = self.plain(&item)? {
                strings.push((item, text));
            }
        }
        Ok(strings)
    }

    /// A mapping, or a list of `NAME=value`: names with their values, `None` where there is only a name.
    pub(crate) fn pairs<'n>(
        &mut self,
        at: &PlacedValue<'n>,
    ) -> Result<Vec<(PlacedValue<'n>, String, Option<Text>)>, ComposeImportError> {
        let mut pairs = Vec::new();
        if let YamlValue::Scalar { .. } = at.node.value {
            if !at.node.is_null() {
                return Err(self.wrong(at, "expected a mapping or a list, found a string"));
            }
            self.account.leave(at, "has no value");
        }
        for (key, child) in at.children() {
            if let YamlValue::Map(_) = at.node.value {
                let value = if child.node.is_null() { None } else { Some(self.text(&child)?) };
                pairs.push((child, key.to_owned(), value));
                continue;
            }
            let YamlValue::Scalar { text, .. } = &child.node.value else {
                return Err(self.wrong(&child, format!("expected NAME=value, found {}", child.node.kind())));
            };
            // The name is told from the value before variables are put in: a value may have a '=' too.
            let (name, value) = text.split_once('=').map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
            let name = self.interpolated(&child, name)?.value;
            let value = value.map(|value| self.interpolated(&child, value)).transpose()?;
            pairs.push((child, name, value));
        }
        Ok(pairs)
    }

    /// The children of a mapping; nothing at all is an empty one.
    pub(crate) fn mapping<'n>(
        &self,
        at: &PlacedValue<'n>,
    ) -> Result<Vec<(&'n str, PlacedValue<'n>)>, ComposeImportError> {
        match &at.node.value {
            YamlValue::Map(_) => Ok(at.children()),
            _ if at.node.is_null() => Ok(Vec::new()),
            _ => Err(self.wrong(at, format!("expected a mapping, found {}", at.node.kind()))),
        }
    }

    /// A path of the host, absolute, as the file that it is written in has it; or why it cannot be known.
    pub(crate) fn host_path(&self, mark: Mark, text: &str) -> Result<String, &'static str> {
        if text.starts_with('~') {
            return Err("is below the home of the user who runs compose: give the whole path");
        }
        Ok(absolute(&self.directories[mark.file], text))
    }

    /// The container of a service that is taken over.
    pub(crate) fn container(&self, service: &str) -> Option<String> {
        self.containers.get(service).cloned()
    }

    pub(crate) fn uses(&mut self, section: &str, name: &str) {
        self.used.insert(format!("{section}.{name}"));
    }

    /// What the top level says of a volume, a network, a secret or a config.
    pub(crate) fn top(&self, section: &str, name: &str) -> Option<&YamlNode> {
        Some(&self.root.node.get(section)?.value.get(name)?.value)
    }
}

/// Why the value of a variable is not in the text.
pub(crate) fn private(variable: &str) -> String {
    format!("has the value of {variable}, which is from a file of variables and may be a secret: {NOT_COPIED}")
}

/// Why a secret is not in the text.
pub(crate) const NOT_COPIED: &str = "what is in the configuration can be read by everybody on the host";

/// A path made absolute and without `.` and `..`, as compose does it: by its text alone.
pub(crate) fn absolute(directory: &Path, text: &str) -> String {
    let mut path = PathBuf::new();
    for component in directory.join(text).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.display().to_string()
}
