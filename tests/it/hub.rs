//! A stand-in for Hugging Face and its CDN, on two ports of this machine, and models small enough for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, Asked, BadRegistry};

pub(crate) const TOKEN: &str = "hf_a-secret-of-these-tests";

/// What it has and how it behaves; may be changed while it runs.
pub(crate) struct State {
    /// Commit of `main`.
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Files below this size are in Git itself.
    pub(crate) large: usize,
    pub(crate) licence: &'static str,
    /// The status that a file has without the token.
    pub(crate) gated: Option<u16>,
    /// Bytes that the CDN sends before it breaks off.
    pub(crate) cut: Option<usize>,
    /// What the CDN sends instead.
    pub(crate) lie: Option<Vec<u8>>,
    /// Whether the CDN takes its time.
    pub(crate) slow: bool,
}

/// The server of the API, and the CDN that it redirects to.
pub(crate) struct FakeHub {
    pub(crate) hub: BadRegistry,
    pub(crate) cdn: BadRegistry,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// With the repository `org/repo` of these files.
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        let state = State {
            commit: "1".repeat(40),
            files,
            large: 1000,
            licence: "apache-2.0",
            gated: None,
            cut: None,
            lie: None,
            slow: false,
        };
        let state = Arc::new(Mutex::new(state));
        let (of_cdn, of_hub) = (Arc::clone(&state), Arc::clone(&state));
        let cdn = BadRegistry::start(move |_, asked| cdn(&of_cdn.lock().unwrap(), asked));
        let host = cdn.host.clone();
        let hub = BadRegistry::start(move |_, asked| api(&of_hub.lock().unwrap(), &host, asked));
        Self { hub, cdn, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.hub.host)
    }

    /// `GET` requests for files so far, to either.
    pub(crate) fn downloads(&self) -> usize {
        let of = |server: &BadRegistry| server.log().iter().filter(|line| line.contains("/resolve/")).count();
        of(&self.hub) + of(&self.cdn)
    }
}

fn api(state: &State, cdn: &str, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap();
    if let Some(revision) = path.strip_prefix("/api/models/org/repo/revision/") {
        if revision != "main" && revision != state.commit {
            return Answer::new(404).body(r#"{"error":"Invalid rev id"}"#);
        }
        let info = json!({ "id": "org/repo", "sha": state.commit, "gated": state.gated.map(|_| "auto"),
            "cardData": { "license": state.licence } });
        return Answer::ok(info.to_string());
    }
    if path.strip_prefix("/api/models/org/repo/tree/") == Some(&state.commit) {
        return tree(state, asked);
    }
    let Some(rest) = path.strip_prefix(&format!("/org/repo/resolve/{}/", state.commit)) else {
        return Answer::new(404).body(r#"{"error":"Repository not found"}"#);
    };
    if let Some(status) = state.gated.filter(|_| asked.header("authorization") != Some(&format!("Bearer {TOKEN}"))) {
        let said = json!({ "error": "Access to model org/repo is restricted." }).to_string();
        let challenge = "Bearer realm=\"Authentication required\", charset=\"UTF-8\"";
        return Answer::new(status).header("www-authenticate", challenge).body(said);
    }
    match state.files.get(rest) {
        None => Answer::new(404).body("Entry not found"),
        Some(bytes) if bytes.len() < state.large => Answer::ok(bytes.clone()),
        // As the real one does it for large files.
        Some(_) => Answer::new(302).header("location", format!("http://{cdn}{}", asked.path)),
    }
}

/// Two pages, if there are several files.
fn tree(state: &State, asked: &Asked) -> Answer {
    let entry = |(path, bytes): (&String, &Vec<u8>)| {
        let mut entry = json!({ "type": "file", "path": path, "size": bytes.len(), "oid": "0".repeat(40) });
        if bytes.len() >= state.large {
            entry["lfs"] = json!({ "oid": Digest::of(bytes).hex(), "size": bytes.len(), "pointerSize": 134 });
        }
        entry
    };
    let mut entries: Vec<Value> = vec![json!({ "type": "directory", "path": "sub", "size": 0, "oid": "0" })];
    entries.extend(state.files.iter().map(entry));
    let (first, second) = entries.split_at(entries.len().min(2));
    if asked.path.contains("cursor=") {
        return Answer::ok(json!(second).to_string());
    }
    let next = format!("<http://{}/{}&cursor=2>; rel=\"next\"", asked.header("host").unwrap(), &asked.path[1..]);
    let answer = Answer::ok(json!(first).to_string());
    if second.is_empty() { answer } else { answer.header("link", next) }
}

fn cdn(state: &State, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap();
    let file = path.rsplit(&format!("/resolve/{}/", state.commit)).next().unwrap();
    let Some(bytes) = state.files.get(file) else { return Answer::new(404) };
    let answer = ranged(state.lie.as_ref().unwrap_or(bytes), asked);
    let answer = state.cut.map_or(answer.clone(), |cut| answer.clone().cut_after(cut));
    if state.slow { answer.slowly(1 << 14, std::time::Duration::from_millis(20)) } else { answer }
}

/// All bytes, or those from the one on that was asked for.
pub(crate) fn ranged(bytes: &[u8], asked: &Asked) -> Answer {
    let from = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) if from < bytes.len() => Answer::new(206)
            .header("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
            .body(&bytes[from..]),
        Some(_) => Answer::new(416),
        None => Answer::ok(bytes),
    }
}

/// A GGUF file with one tensor of so many numbers; `seed` makes its bytes others than those of any other.
pub(crate) fn gguf(name: &str, seed: &str, numbers: u32) -> Vec<u8> {
    shard(&[("general.architecture", "llama"), ("general.name", name), ("general.license", "mit")], None, seed, numbers)
}

/// Two shards of one.
pub(crate) fn gguf_shards(seed: &str) -> [Vec<u8>; 2] {
    [
        shard(&[("general.architecture", "llama"), ("general.name", "Two")], Some((0, 2)), seed, 500),
        shard(&[], Some((1, 2)), seed, 700),
    ]
}

fn shard(texts: &[(&str, &str)], split: Option<(u16, u16)>, seed: &str, numbers: u32) -> Vec<u8> {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend((texts.len() as u64 + if split.is_some() { 3 } else { 0 }).to_le_bytes());
    for (key, value) in texts {
        text(&mut bytes, key);
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, value);
    }
    if let Some((number, count)) = split {
        for (key, value) in [("split.no", number), ("split.count", count)] {
            text(&mut bytes, key);
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        text(&mut bytes, "split.tensors.count");
        bytes.extend(5_u32.to_le_bytes());
        bytes.extend(i32::from(count).to_le_bytes());
    }
    text(&mut bytes, &format!("t{}.weight", split.map_or(0, |(number, _)| number)));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(u64::from(numbers).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let seed = Digest::of(seed.as_bytes());
    bytes.extend((0..numbers).flat_map(|n| {
        let at = n as usize % 29;
        [seed.as_bytes()[at], seed.as_bytes()[at + 1], (n >> 8) as u8, n as u8]
    }));
    bytes
}
