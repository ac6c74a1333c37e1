//! `windlass report`: the page holds what the other verbs say, nothing breaks out of it, and a real browser shows it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::disk::size::size;
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, FIXED, base_name, closure, run_ok};
use crate::lab::Lab;
use crate::nix::root;

/// The data in a page.
fn data(page: &str) -> Value {
    let (_, json) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    serde_json::from_str(json.split("</script>").next().unwrap()).unwrap()
}

fn put(path: &Path, bytes: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Names that could end a script, an attribute or a line, and one that turns the direction of writing.
const HOSTILE: [&str; 5] = ["</script><script>alert(1)<!--", "\"'`onload=", "a\nb", "\u{202e}gpj", "]]>&amp;"];

/// The bytes of the page of a small stack. When the page is meant to look or say another thing, look at it and put the new digest here.
const GOLDEN: &str = "sha256:4f5035e96b6446c63460a85e7de11c4af3ae5b592ceaada9b697c2c3a5635299";

/// A stack of two images and a model whose files are called as badly as they can be; at paths that are the same in every run.
fn hostile(env: &Env) {
    let (host, store) = (env.path("host"), format!("{FIXED}/store"));
    let at = |name: &str| host.join("store").join(base_name(name));
    for (n, name) in HOSTILE.iter().enumerate() {
        put(&at("web-1.0").join("share").join(name.replace('/', "\u{2044}")), 1000 + n as u64);
    }
    put(&at("web-1.0").join("bin/web"), 30_000);
    put(&at("job-2.1").join("bin/job"), 20_000);
    put(&at("lib-3.4").join("lib/lib.so"), 5_000_000);
    put(&at("file-1"), 700);
    put(&host.join("weights"), 3_000_000);
    let paths: [(&str, &[&str]); 4] =
        [("web-1.0", &["lib-3.4", "file-1"]), ("job-2.1", &["lib-3.4"]), ("lib-3.4", &[]), ("file-1", &[])];
    env.write("host/closure.json", closure(&store, &host.join("store"), &paths));
    let image = |name: &str, path: &str| {
        let model = json!({ "name": "tiny", "files": { "tiny.bin": format!("{FIXED}/weights") } });
        json!({ "name": name, "tag": "1", "platform": "linux/amd64", "storeDir": store, "models": [{ "spec": model }],
                "config": { "Cmd": [format!("{store}/{}/bin/{name}", base_name(path))] } })
    };
    let stack = json!({ "kind": "stack", "name": "s", "images": [image("web", "web-1.0"), image("job", "job-2.1")] });
    env.write("host/stack.json", stack.to_string());
}

#[test]
fn a_page_is_the_same_bytes_and_no_name_breaks_out() {
    let env = Env::new();
    hostile(&env);
    let at = |arguments: &[&str]| run_ok(&mut env.windlass_at(&env.path("host"), &[], arguments));
    // The directory's name is the title.
    let output = "<b>&\"\u{202e}</title>".replace('/', "\u{2044}");
    at(&["build", "stack.json", "--closure", "closure.json", "--output", &output]);
    let page = at(&["report", &output]);
    assert_eq!(at(&["report", &output, "--output", "report.html"]).lines().count(), 1);
    assert_eq!(fs::read_to_string(env.path("host/report.html")).unwrap(), page);
    // One program, which the policy names by its hash, and one block of data.
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2));
    assert!(!page.contains("<b>") && !page.contains('\u{202e}') && page.contains("&lt;b&gt;&amp;&quot;\u{fffd}"));
    let (_, policy) = page.split_once("http-equiv=\"Content-Security-Policy\" content=\"").unwrap();
    let policy = policy.split('"').next().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    for (element, source) in [("style", "style-src"), ("script", "script-src")] {
        let (_, text) = page.split_once(&format!("<{element}>")).unwrap();
        let text = text.split(&format!("</{element}>")).next().unwrap();
        let script = "import base64, hashlib, sys; print(base64.b64encode(hashlib.sha256(sys.argv[1].encode()).digest()).decode())";
        let hash = run_ok(Command::new("python3").args(["-c", script, text]));
        assert!(policy.contains(&format!("{source} 'sha256-{}'", hash.trim())), "{element}: {policy}");
    }
    let without_names = page.replace("http://www.w3.org/2000/svg", "");
    for address in ["http://", "https://", " src=", "@import", "url("] {
        assert!(!without_names.contains(address), "{address}");
    }

    let data = data(&page);
    let names: Vec<&str> =
        data["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["job", "tiny", "web"]);
    assert_eq!((data["below"].as_u64(), data["store"].as_str()), (Some(0), Some("/dev/shm/store")));
    // The names are whole in the data.
    let web = data["paths"].as_array().unwrap().iter().position(|path| path[0] == base_name("web-1.0")).unwrap();
    let share = data["trees"][web].as_array().unwrap().iter().find(|entry| entry[0] == "share").unwrap();
    let mut files: Vec<&str> = share[1].as_array().unwrap().iter().map(|file| file[0].as_str().unwrap()).collect();
    let mut expected = HOSTILE.map(|name| name.replace('/', "\u{2044}"));
    files.sort_unstable();
    expected.sort_unstable();
    assert_eq!(files, expected);
    assert_eq!(Digest::of(page.as_bytes()).to_string(), GOLDEN, "look at the page, then see GOLDEN");

    // A bundle of it has the same images, and the same layers under the same names.
    at(&["export", &output, "--bundle", "bundle"]);
    let bundled = self::data(&at(&["report", "bundle"]));
    let digests = |data: &Value| -> BTreeSet<String> {
        data["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].to_string()).collect()
    };
    assert!(digests(&data).len() > 3, "{}", data["layers"]);
    assert_eq!((digests(&bundled), &bundled["images"]), (digests(&data), &data["images"]));

    // An image alone; nothing to say of what is not there; one result only.
    let alone = self::data(&at(&["report", &format!("{output}/images/web")]));
    assert_eq!(alone["images"].as_array().unwrap().len(), 1);
    let (code, said) = env.fails(["report", "host", "--json"]);
    assert!(code == 2 && said.contains("give --output a file"), "{said}");
    let (_, said) = env.fails(["report", "host/store"]);
    assert!(said.contains("image.json"), "{said}");
    // Store paths that are gone from this host are named by their layers, and drawn with the bytes that Nix recorded.
    fs::remove_dir_all(env.path("host/store").join(base_name("web-1.0"))).unwrap();
    let data = self::data(&at(&["report", &output]));
    let unlisted: Vec<&str> =
        data["layers"].as_array().unwrap().iter().filter_map(|layer| layer["unlisted"].as_str()).collect();
    assert_eq!(unlisted, ["1 store path of it is not on this host"]);
    assert_eq!(data["trees"][web], 0);
}

/// A stack of 30 images with 3,000 store paths: 600 that all have, and 80 of each.
fn large(env: &Env) {
    let store = env.path("store");
    let name =
        |n: usize| format!("{}{n}-{}.{}.{}", ["lib", "python3.12-", "node-", "font-"][n % 4], n % 9 + 1, n % 31, n % 7);
    let full = |n: usize| format!("{}/{}", store.display(), base_name(&name(n)));
    let mut graph = serde_json::Map::new();
    for n in 0..3000 {
        let path = PathBuf::from(full(n));
        // What looks like a secret is looked for in each, so that only some are large.
        let size = if n.is_multiple_of(75) { 6_000_000 } else { 200 + (n * 7919 % 37) as u64 * 10 };
        put(&path.join("bin/run"), size);
        put(&path.join("lib/python3.12/site-packages/module.so"), size / 2 + n as u64);
        // Up to six of those before it: of its image, and of what all have.
        let common = n.min(600);
        let mut references: Vec<usize> =
            (1..=n % 5).filter(|_| common > 0).map(|k| (n * 31 + k * k * 17) % common).collect();
        if n > 600 && !(n - 600).is_multiple_of(80) {
            references.push(n - 1);
        }
        references.sort_unstable();
        references.dedup();
        let references: Vec<String> = references.into_iter().map(full).collect();
        graph.insert(
            full(n),
            json!({ "narHash": format!("sha256:{}", "0".repeat(64)), "narSize": size * 2, "references": references }),
        );
    }
    env.write("closure.json", Value::Object(graph).to_string());
    let common: Vec<String> = (500..600).map(full).collect();
    let image = |n: usize| {
        let top = full(600 + n * 80 + 79);
        let deps = [std::slice::from_ref(&top), &common[..]].concat();
        json!({ "name": format!("svc-{n:02}"), "tag": "1", "platform": "linux/amd64", "storeDir": store,
                "content": { "deps": deps },
                "config": { "Cmd": [format!("{top}/bin/run")] } })
    };
    let images: Vec<Value> = (0..30).map(image).collect();
    env.write("stack.json", json!({ "kind": "stack", "name": "large", "images": images }).to_string());
    env.ok(["build", "stack.json", "--closure", "closure.json", "--output", "large"]);
}

/// What can be reached along references from these, without going through one.
fn reached(graph: &Value, starts: &[&str], without: &str) -> BTreeSet<String> {
    let (mut seen, mut left) = (BTreeSet::new(), starts.iter().map(|start| (*start).to_owned()).collect::<Vec<_>>());
    while let Some(path) = left.pop() {
        if path != without && seen.insert(path.clone()) {
            left.extend(
                graph[&path]["references"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()),
            );
        }
    }
    seen
}

/// A store path of `large` with the names on the only shortest way to it, and its sizes as the page has them: found by
/// taking it away.
fn answer(env: &Env) -> (String, Vec<String>, [String; 3]) {
    let graph: Value = serde_json::from_slice(&fs::read(env.path("closure.json")).unwrap()).unwrap();
    let full = |n: usize| {
        let ending = format!("{n}-");
        let named = |path: &&String| {
            path.split_once('-')
                .unwrap()
                .1
                .contains(&format!("{}{ending}", ["lib", "python3.12-", "node-", "font-"][n % 4]))
        };
        graph.as_object().unwrap().keys().find(named).unwrap().clone()
    };
    // An image asks for its last path, and each path of its own refers to the one before.
    let way = [full(679), full(678), full(677)];
    let all: Vec<&str> = graph.as_object().unwrap().keys().map(String::as_str).collect();
    let bytes =
        |paths: &BTreeSet<String>| paths.iter().map(|path| graph[path]["narSize"].as_u64().unwrap()).sum::<u64>();
    let tops: Vec<String> = (0..30).map(|n| full(600 + n * 80 + 79)).chain((500..600).map(full)).collect();
    let tops: Vec<&str> = tops.iter().map(String::as_str).collect();
    let here = reached(&graph, &tops, "");
    assert!(here.len() <= all.len());
    let own = graph[&way[2]]["narSize"].as_u64().unwrap();
    let added = bytes(&here) - bytes(&reached(&graph, &tops, &way[2]));
    let sizes = [own, bytes(&reached(&graph, &[&way[2]], "")), added].map(size);
    let name = |path: &String| path.rsplit('/').next().unwrap()[33..].to_owned();
    (way[2].rsplit('/').next().unwrap().to_owned(), way.iter().map(name).collect(), sizes)
}

/// A real browser opens the page of 3,000 store paths, and finds in it what windlass says.
#[test]
fn a_browser_opens_every_view_of_three_thousand_store_paths() {
    let env = Env::new();
    large(&env);
    // A host with an older one, so that there is a view of changes.
    let mut old: Value = serde_json::from_slice(&fs::read(env.path("stack.json")).unwrap()).unwrap();
    old["images"].as_array_mut().unwrap().truncate(3);
    env.write("old.json", old.to_string());
    env.ok(["build", "old.json", "--closure", "closure.json", "--output", "old"]);
    let page = env.path("report.html");
    env.ok(["report", "large", "--against", "old", "--output", "report.html"]);
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.len() < 500_000, "{}", text.len());
    let data = data(&text);
    let paths = data["paths"].as_array().unwrap();
    assert_eq!((paths.len(), data["layers"].as_array().unwrap().len() > 30), (3000, true));
    // What the program counts, and what `diff` does.
    let diff: Value = serde_json::from_str(&env.ok(["diff", "old", "large", "--json"])).unwrap();
    for key in ["changes", "bytesToWrite", "bytesRegrouped", "removed", "services", "warnings"] {
        assert_eq!(data["against"][key], diff[key], "{key}");
    }

    let (base, way, sizes) = answer(&env);
    let expected = json!({
        "more": ["Changes"], "images": 30, "layers": data["layers"].as_array().unwrap().len(), "lowest": "in 30 of 30 images",
        "search": &base[33..], "base": base, "image": "svc-03", "way": way, "sizes": sizes,
    });
    let browser = run_ok(Command::new("sh").args(["-c", "command -v chromium-headless-shell || command -v chromium"]));
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", root().join("target/parts/browser")).arg(root().join("tests/fixtures/report.py"));
    python.arg(browser.trim()).arg(&page).arg(expected.to_string());
    if let Some(folder) = std::env::var_os("WINDLASS_SCREENSHOTS") {
        python.arg(folder);
    }
    let said: Value = serde_json::from_str(&run_ok(&mut python)).unwrap();
    // A second on a machine that does nothing else; here others work too.
    let opened = said["opened"].as_f64().unwrap();
    assert!(opened < 10.0, "{opened} s");
}

/// What the views of changes and of this host have is what the verbs say that count it.
#[test]
fn a_host_is_drawn_as_its_status_and_a_change_as_its_diff() {
    let lab = Lab::new(true);
    lab.load(1, 3_000_000);
    lab.load(2, 3_100_000);
    let page = data(&lab.ok(&["report", "app", "--host", "--against", "app-1"]));
    let (here, status) = (&page["host"], lab.json(&["status", "app", "--sizes"]));
    for key in ["images", "graphRoot", "linkedStore", "linkedStoreState", "generation", "driver"] {
        assert_eq!(here["status"][key], status[key], "{key}");
    }
    assert!(status["images"][0]["onDisk"]["linked"].as_u64().unwrap() >= 3_100_000, "{status}");
    assert_eq!(here["generations"], lab.json(&["generations"])["generations"]);
    assert_eq!(here["gc"]["bytes"], lab.json(&["gc"])["bytes"]);
    assert_eq!(here["frees"].as_array().unwrap().len(), 2);
    for freed in here["frees"].as_array().unwrap() {
        let gc = lab.json(&["gc", "--keep-generations", &freed["keep"].to_string()]);
        let names: Vec<&Value> = gc["remove"].as_array().unwrap().iter().map(|removal| &removal["name"]).collect();
        assert_eq!((&freed["bytes"], &freed["collectable"]), (&gc["bytes"], &gc["collectable"]));
        assert_eq!(freed["names"], json!(names));
    }
    assert!(here["frees"][0]["names"].as_array().unwrap().iter().any(|name| name == "generation 1"), "{here}");
    let diff = lab.json(&["diff", "app-1", "app"]);
    for key in ["changes", "bytesToWrite", "bytesRegrouped", "bytesToWriteHere", "removed", "services", "warnings"] {
        assert_eq!(page["against"][key], diff[key], "{key}");
    }
    assert_eq!(diff["bytesToWriteHere"], lab.json(&["plan", "app"])["need"]["bytesToWrite"]);
    let names = |key: &str, of: &dyn Fn(&Value) -> String| -> Vec<String> {
        page["against"][key].as_array().unwrap().iter().map(of).collect()
    };
    let new = names("newPaths", &|n| page["paths"][n.as_u64().unwrap() as usize][0].as_str().unwrap().to_owned());
    let gone = names("gonePaths", &|path| path[0].as_str().unwrap().to_owned());
    assert_eq!((new, gone), (vec![base_name("app-2")], vec![base_name("app-1")]));

    // The same for a pull request, and in a terminal.
    let comment = lab.ok(&["report", "app", "--against", "app-1", "--format", "markdown"]);
    let to_write = size(diff["bytesToWrite"].as_u64().unwrap());
    for line in [
        "<!-- windlass report -->\n### `app`\n",
        &format!("\n**{to_write} to write** on a host that has `app-1`\n"),
        &format!("\n| `app` | changed | {to_write} | "),
        "\n| `app` | changed | `1` | `2` | not known | `app` |\n",
        "\n<details><summary>1 licence</summary>\n\n| licence | packages |  |\n|---|---|---|\n| not known | 1 | `app` |\n",
        "\n<details><summary>1 store path new</summary>\n\n- `",
    ] {
        assert!(comment.contains(line), "{line}: {comment}");
    }
    let alone = lab.ok(&["report", "app", "--format", "markdown"]);
    assert!(alone.contains("1 image, ") && alone.contains(", each layer once\n"), "{alone}");
    for verb in ["inspect", "plan"] {
        let tree = lab.ok(&[verb, "app", "--tree"]);
        assert!(tree.contains("  ├─    3.1 MB  closure: app-2, 1 path\n  │   └─    3.1 MB  app-2\n"), "{tree}");
    }
}
