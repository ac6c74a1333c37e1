//! What `windlass diff` says of images and services, and whether a load then does that.

use std::process::Command;

use serde_json::{Value, json};

use crate::env::{base_name, closure, run_ok};
use crate::lab::Lab;

/// Store paths with what they refer to, and their bytes.
const PATHS: [(&str, &[&str], usize); 5] = [
    ("libc-2", &[], 5_000_000),
    // Too small for a layer by itself, where nothing else parts it from what lies below.
    ("libssl-3", &["libc-2"], 3_000_000),
    ("web-1", &["libssl-3", "libc-2"], 300_000),
    ("cache-1", &["libc-2"], 200_000),
    ("cache-2", &["libc-2"], 210_000),
];

/// A host with these store paths.
fn lab(linked: bool) -> Lab {
    let lab = Lab::new(linked);
    let store = lab.env.path("store");
    for (n, (name, _, bytes)) in PATHS.iter().enumerate() {
        let path = store.join(base_name(name));
        let data: Vec<u8> = (0..*bytes).map(|byte| (byte as u8).wrapping_mul(29) ^ n as u8).collect();
        std::fs::write(&path, data).unwrap();
        run_ok(Command::new("chmod").arg("0444").arg(&path));
        run_ok(Command::new("touch").args(["--date", "@1"]).arg(&path));
    }
    let paths = PATHS.map(|(name, references, _)| (name, references));
    lab.env.write("closure.json", closure(store.to_str().unwrap(), &store, &paths));
    lab
}

/// An image whose closure is that of one store path.
fn image(lab: &Lab, name: &str, path: &str, config: Value) -> Value {
    let store = lab.env.path("store");
    let path = store.join(base_name(path));
    json!({ "name": name, "storeDir": store, "content": { "deps": [path] }, "config": config })
}

/// Builds a stack at this name.
fn stack(lab: &Lab, name: &str, images: &[Value], services: Value) {
    let spec = json!({ "kind": "stack", "name": "shop", "images": images, "services": services });
    lab.env.write(format!("{name}.json"), spec.to_string());
    lab.ok(&["build", &format!("{name}.json"), "--closure", "closure.json", "--output", name]);
}

/// The changes by the names of their images.
fn change<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["changes"].as_array().unwrap().iter().find(|change| change["name"] == name).unwrap()
}

#[test]
fn settings_and_services_are_told_by_name_and_values_are_not() {
    let lab = lab(true);
    let (web, cache) = ("web-1", "cache-1");
    let before = [
        image(&lab, "web", web, json!({ "Env": ["MODE=a", "GONE=b"], "Cmd": ["/web"], "Labels": { "team": "red" } })),
        image(&lab, "cache", cache, json!({ "Cmd": ["/cache"] })),
    ];
    let after = [
        image(
            &lab,
            "web",
            web,
            json!({ "Env": ["MODE=c", "NEW=d"], "Cmd": ["/web", "-v"], "User": "65534", "Labels": { "team": "blue" } }),
        ),
        image(&lab, "cache", cache, json!({ "Cmd": ["/cache"] })),
    ];
    let services = json!({
        "front": { "image": "web" },
        "store": { "image": "cache", "environment": { "SIZE": "sesame-1" } },
        "quiet": { "image": "cache" },
        "old": { "image": "cache" },
    });
    let new_services = json!({
        "front": { "image": "web" },
        "store": { "image": "cache", "environment": { "SIZE": "sesame-2" }, "command": ["x"] },
        "quiet": { "image": "cache" },
        "new": { "image": "cache" },
    });
    stack(&lab, "before", &before, services);
    stack(&lab, "after", &after, new_services);
    let told = lab.ok(&["diff", "before", "after"]);
    for line in [
        "  setting    command changed\n",
        "  setting    env GONE removed\n",
        "  setting    env MODE changed\n",
        "  setting    env NEW added\n",
        "  setting    label team changed\n",
        "  setting    user added: none → 65534\n",
        "service front would restart: image web is changed\n",
        "service store would restart: command added, env SIZE changed\n",
        "service new would start\n",
        "service old would stop\n",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("quiet") && !told.contains("sesame") && !told.contains("MODE=c"), "{told}");
    let report = lab.json(&["diff", "before", "after"]);
    assert!(!report.to_string().contains("sesame"), "{report}");
    assert_eq!(change(&report, "cache")["state"], "identical");
    assert!(lab.ok(&["diff", "after", "before"]).contains("service new would stop\n"));
    // Archives do not say how their images run: that is said, and nothing is guessed.
    lab.ok(&["export", "before", "--output", "archives"]);
    let told = lab.windlass(&["diff", "archives", "after"]).output().unwrap();
    let (told, warned) = (String::from_utf8(told.stdout).unwrap(), String::from_utf8(told.stderr).unwrap());
    assert!(!told.contains("setting") && told.contains("service front would restart"), "{told}");
    assert!(warned.contains("warning: the settings of images in archives are not compared"), "{warned}");
    std::os::unix::fs::symlink(lab.env.path("before"), lab.env.path("archives/lean")).unwrap();
    assert!(lab.ok(&["diff", "archives", "after"]).contains("  setting    command changed\n"));
}

/// An image that leaves a stack takes the reason for a layer's boundary with it. That is no new content.
#[test]
fn other_layer_boundaries_are_no_new_content_and_this_host_says_what_it_lacks() {
    for linked in [true, false] {
        let lab = lab(linked);
        let web = image(&lab, "web", "web-1", json!({}));
        let services = json!({ "front": { "image": "web" } });
        stack(&lab, "both", &[web.clone(), image(&lab, "cache", "cache-1", json!({}))], services.clone());
        stack(&lab, "one", std::slice::from_ref(&web), services.clone());
        lab.ok(&["load", "both"]);
        let told = lab.ok(&["diff", "both", "one"]);
        assert!(told.contains("web: same content, other layer boundaries; "), "{told}");
        assert!(
            told.contains("service front would restart: image web has another digest, of the same content\n"),
            "{told}"
        );
        assert!(
            told.contains("0 changed, 1 with other layer boundaries, 0 identical, 1 removed; 0 B to write"),
            "{told}"
        );
        assert!(!told.contains("  new "), "{told}");
        let report = lab.json(&["diff", "both", "one"]);
        assert_eq!((&change(&report, "web")["state"], &report["bytesToWrite"]), (&json!("regrouped"), &json!(0)));
        let here = report["bytesToWriteHere"].as_u64().unwrap();
        assert_eq!(lab.json(&["load", "one", "--dry-run"])["bytesToWrite"], here);
        // Linked, there is nothing to write but the small layer of what is not in the store.
        let again = report["bytesRegrouped"].as_u64().unwrap();
        assert!(again > 1_000_000, "{report}");
        assert!(if linked { here < 100_000 } else { here.abs_diff(again) < again / 20 }, "{report}");

        // New content beside it is new.
        stack(&lab, "other", &[web, image(&lab, "cache", "cache-2", json!({}))], services);
        let report = lab.json(&["diff", "both", "other"]);
        assert_eq!(change(&report, "web")["state"], "identical", "{report}");
        let new = change(&report, "cache")["newBlobs"].as_array().unwrap();
        assert!(new.iter().any(|layer| layer["title"].as_str().unwrap().starts_with("cache-2")), "{report}");
        assert!(report["bytesToWrite"].as_u64().unwrap() >= 210_000, "{report}");
    }
}
