//! Blobs of one image travel at the same time: a registry here keeps the first one waiting until a second one is asked for.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;
use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, Asked, BadRegistry};
use crate::env::{linked_podman, run_ok};
use crate::push::{app, windlass};
use crate::upstream_images::MANIFEST;

/// Where requests wait for each other.
#[derive(Clone, Default)]
struct Meeting(Arc<(Mutex<usize>, Condvar)>);

impl Meeting {
    /// Waits for a second one; they have never met if none comes in time.
    fn wait(&self) {
        let (count, changed) = &*self.0;
        let mut count = count.lock().unwrap();
        *count += 1;
        changed.notify_all();
        drop(changed.wait_timeout_while(count, Duration::from_secs(20), |count| *count < 2).unwrap());
    }

    /// A request that came alone has given up by the time the next one counts.
    fn leave(&self) {
        let mut count = self.0.0.lock().unwrap();
        if *count < 2 {
            *count = 0;
        }
    }

    fn have_met(&self) -> bool {
        *self.0.0.lock().unwrap() >= 2
    }
}

/// An image of small layers: its manifest and its blobs.
fn image() -> (Vec<u8>, Vec<Vec<u8>>) {
    let layers: Vec<Vec<u8>> = (0..4).map(|n| vec![n; 4096]).collect();
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": ids } });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
    };
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>() });
    let blobs = layers.into_iter().chain([config]).collect();
    (manifest.to_string().into_bytes(), blobs)
}

#[test]
fn blobs_are_fetched_at_the_same_time() {
    let podman = linked_podman();
    let meeting = Meeting::default();
    let there = meeting.clone();
    let (manifest, blobs) = image();
    let registry = BadRegistry::start(move |_, asked| {
        let Some((_, digest)) = asked.path.split_once("/blobs/") else {
            let digest = Digest::of(&manifest).to_string();
            return Answer::ok(manifest.clone())
                .header("content-type", MANIFEST)
                .header("docker-content-digest", digest);
        };
        let blob = blobs.iter().find(|blob| Digest::of(blob).to_string() == digest).unwrap();
        if blob.len() == 4096 {
            there.wait();
            there.leave();
        }
        Answer::ok(blob.clone())
    });
    let reference = format!("{}/team/app:1", registry.host);
    run_ok(&mut windlass(&podman, &["upstream", "add", "app", &reference, "--insecure", "--platform", "linux/amd64"]));
    run_ok(&mut windlass(&podman, &["upstream", "fetch"]));
    assert!(meeting.have_met(), "each blob was fetched alone");
}

/// A registry that takes what it gets, and lets blobs wait.
fn takes(asked: &Asked, meeting: &Meeting) -> Answer {
    match asked.method.as_str() {
        "POST" => Answer::new(202).header("location", "/v2/team/app/blobs/uploads/one"),
        "PUT" if asked.path.contains("/uploads/") => {
            meeting.wait();
            meeting.leave();
            Answer::new(201)
        }
        "PUT" => Answer::new(201).header("docker-content-digest", Digest::of(&asked.body).to_string()),
        _ => Answer::new(404),
    }
}

#[test]
fn layers_are_pushed_at_the_same_time() {
    let podman = linked_podman();
    app(&podman, 10_000_000);
    let meeting = Meeting::default();
    let inside = meeting.clone();
    let registry = BadRegistry::start(move |_, asked| takes(asked, &inside));
    let to = format!("docker://{}/team/app:1", registry.host);
    let output = windlass(&podman, &["push", "app", &to, "--insecure", "--retries", "0"]).output().unwrap();
    // What it has sent is not there afterwards; the blobs came before that.
    assert!(!output.status.success());
    assert!(meeting.have_met(), "each layer was sent alone: {:?}", registry.log());
}
