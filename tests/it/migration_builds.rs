//! The arguments of dockerTools and nix2container that work, built: commands with their modes and owners, Nix' database, images
//! of other programs as a base, and a stream.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::engine::{Podman, Said};
use crate::env::{Env, run_ok};
use crate::nix::{build, eval, nix, try_eval, wrap};
use crate::registry_server::RealRegistry;

/// An expression that may use `f`, the functions with packages.
fn with_packages(expression: &str) -> String {
    format!("let f = import ./nix {{ inherit pkgs; windlass = bin; }}; in {expression}")
}

fn built(expression: &str) -> Result<PathBuf, String> {
    build(&with_packages(expression))
}

/// What is in the layers of an image, or of an archive that one is in: place -> mode, owner and target, of the uppermost layer.
fn members(env: &Env, image: &Path) -> BTreeMap<String, String> {
    let (archive, folder) = (env.path("members.tar"), env.path("members"));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir(&folder).unwrap();
    env.ok(["export", image.to_str().unwrap(), "--output", archive.to_str().unwrap()]);
    run_ok(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder));
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let mut members = BTreeMap::new();
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        let list = run_ok(
            Command::new("tar")
                .args(["--list", "--verbose", "--numeric-owner", "--file"])
                .arg(folder.join(layer.as_str().unwrap())),
        );
        for line in list.lines() {
            let mut words = line.split_whitespace();
            let (mode, owner) = (words.next().unwrap(), words.next().unwrap());
            let place = words.nth(3).unwrap().trim_end_matches('/');
            let target = words.collect::<Vec<_>>().join(" ");
            members.insert(format!("/{place}"), format!("{mode} {owner} {target}").trim().to_owned());
        }
    }
    members
}

#[test]
fn modes_and_owners_that_commands_set_are_those_in_the_image() {
    let env = Env::new();
    let image = built(
        r#"f.buildImage {
          name = "a";
          contents = [ pkgs.busybox ];
          copyToRoot = pkgs.runCommand "tree" { } "mkdir -p $out/srv; echo 1 >$out/srv/own; echo 2 >$out/srv/run; chmod +x $out/srv/run";
          extraCommands = "mkdir -p home tmp; echo more >>srv/own; ln -s own srv/link";
          fakeRootCommands = ''
            chown -R 1000:100 home srv
            chown -h 7:8 srv/link
            chmod 0700 home
            chmod 4751 srv/run
            chmod 1777 tmp
            mkdir -p etc "with space"
            echo 'me:x:1000:100::/home:/bin/sh' >etc/passwd
            chmod 600 etc/passwd
          '';
          perms = [ { regex = "^/srv$"; mode = "0711"; } ];
        }"#,
    )
    .unwrap();
    let members = members(&env, &image);
    for (place, expected) in [
        ("/home", "drwx------ 1000/100"),
        ("/srv", "drwx--x--x 1000/100"),
        ("/srv/own", "-rw-r--r-- 1000/100"),
        ("/srv/run", "-rwsr-x--x 1000/100"),
        ("/srv/link", "lrwxrwxrwx 7/8 -> own"),
        ("/tmp", "drwxrwxrwt 0/0"),
        ("/etc/passwd", "-rw------- 0/0"),
        // Beside what the commands made there is what every image has.
        ("/etc/group", "-rw-r--r-- 0/0"),
        ("/proc", "dr-xr-xr-x 0/0"),
        ("/with", "drwxr-xr-x 0/0 space/"),
    ] {
        assert_eq!(members.get(place).map(String::as_str), Some(expected), "{place}: {members:?}");
    }
    // A package whose tree is linked is there with what it needs.
    let busybox = eval("\"${pkgs.busybox}\"");
    assert_eq!(members["/bin/sh"], format!("lrwxrwxrwx 0/0 -> {}/bin/sh", busybox.as_str().unwrap()));
    assert!(members.contains_key(&format!("{}/bin/busybox", busybox.as_str().unwrap())));
    // As a layer of its own too, whose users have it from there.
    let image = built(
        r#"f.buildImage { name = "b"; layers = [ (f.buildLayer { fakeRootCommands = "mkdir data; chown 5:6 data; chmod 750 data"; }) ]; }"#,
    )
    .unwrap();
    assert_eq!(self::members(&env, &image)["/data"], "drwxr-x--- 5/6");
}

#[test]
fn what_the_nix_store_cannot_keep_is_refused_by_name() {
    for (commands, name) in [
        ("mkdir dev; mknod dev/null c 1 3", "/dev/null (a device, FIFO or socket)"),
        ("mkfifo door", "/door (a device, FIFO or socket)"),
        ("touch a; setfattr -n user.a -v b a", "/a"),
    ] {
        let error = built(&format!("f.buildRoot {{ fakeRootCommands = \"{commands}\"; }}")).unwrap_err();
        assert!(error.contains("the Nix store keeps no devices and no extended attributes"), "{error}");
        assert!(error.lines().any(|line| line.trim_start_matches("> ").trim() == name), "{error}");
    }
    let error = built(r#"f.buildRoot { extraCommands = "mkdir a; false; mkdir b"; }"#).unwrap_err();
    assert!(error.contains("failed with exit code 1"), "{error}");
}

#[test]
fn places_that_are_linked_are_those_that_were_asked_for() {
    let env = Env::new();
    let image = |places: &str| {
        members(
            &env,
            &built(&format!("f.buildImage {{ name = \"a\"; contents = [ pkgs.redis ]; pathsToLink = {places}; }}"))
                .unwrap(),
        )
    };
    assert!(image(r#"[ "/bin" ]"#).contains_key("/bin/redis-server"));
    let other = image(r#"[ "/share/man" ]"#);
    assert!(!other.contains_key("/bin/redis-server"), "{other:?}");
    let error =
        try_eval(&with_packages(r#"(f.buildImage { name = "a"; pathsToLink = [ "bin" ]; }).drvPath"#)).unwrap_err();
    assert!(error.contains(r"pathsToLink: 'bin' does not begin with /"), "{error}");
}

#[test]
fn nix_knows_the_store_paths_of_an_image_with_its_database() {
    let podman = Podman::new();
    let expression = r#"(f.buildImage { name = "nixed"; tag = "1"; includeNixDB = true; config.Cmd = [ "${pkgs.redis}/bin/redis-server" ]; })"#;
    let image = built(expression).unwrap();
    assert_eq!(podman.load(&image, &[]).code, 0);
    let redis = eval("\"${pkgs.redis}\"");
    let redis = redis.as_str().unwrap();
    // Nix is this machine's; the store and its database are the image's.
    let inside = |arguments: &[&str]| {
        let mut run = podman.command("podman");
        run.args(["run", "--rm", "--pull=never", "--network=none", "--entrypoint="]);
        for folder in ["/usr", "/lib", "/lib64"].iter().filter(|folder| Path::new(folder).exists()) {
            run.arg(format!("--volume={folder}:{folder}:ro"));
        }
        run.args(["--env=NIX_CONFIG=build-users-group =", "localhost/nixed:1"]).args(arguments);
        Said::of(&run.output().unwrap())
    };
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let outside = run_ok(nix("nix-store").args(["--query", "--references", redis]));
    let references = inside(&["/usr/bin/nix-store", "--query", "--references", redis]);
    assert_eq!(sorted(&references.stdout), sorted(&outside), "{references:?}");
    let closure = run_ok(nix("nix-store").args(["--query", "--requisites", redis]));
    let valid = inside(&["/usr/bin/nix-store", "--dump-db"]);
    let valid: Vec<String> =
        valid.stdout.lines().filter(|line| closure.lines().any(|path| path == *line)).map(str::to_owned).collect();
    assert!(closure.lines().all(|path| valid.iter().any(|other| other == path)), "{valid:?}");
    // Every byte is that of the database, nothing is taken for garbage, and what is added is added.
    let verified = inside(&["/usr/bin/nix-store", "--verify", "--check-contents"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(!verified.stderr.contains("error") && !verified.stderr.contains("was modified"), "{verified:?}");
    let dead = inside(&["/usr/bin/nix-store", "--gc", "--print-dead"]);
    assert_eq!((dead.code, dead.stdout.as_str()), (0, ""), "{dead:?}");
    let added = inside(&["/usr/bin/nix-store", "--add", "/etc/passwd"]);
    assert!(added.stdout.starts_with("/nix/store/") && added.stdout.trim_end().ends_with("-passwd"), "{added:?}");
    // The same image, the same database: built again, byte for byte.
    let derivation = run_ok(nix("nix-instantiate").args(["--expr", &wrap(&with_packages(expression))]));
    let all = run_ok(nix("nix-store").args(["--query", "--requisites", derivation.trim()]));
    let database = all.lines().find(|path| path.ends_with("-nix-database-image-nixed.drv")).unwrap();
    run_ok(nix("nix-store").args(["--realise", "--check", database]));
}

#[test]
fn an_image_streams_into_podman() {
    let podman = Podman::new();
    let program = built(r#"(f.buildImage { name = "streamed"; tag = "1"; contents = [ pkgs.busybox ]; config.Cmd = [ "/bin/sh" ]; }).stream"#).unwrap();
    let mut stream = Command::new(program.join("bin/stream-image-streamed")).stdout(Stdio::piped()).spawn().unwrap();
    let loaded = podman.command("podman").arg("load").stdin(stream.stdout.take().unwrap()).output().unwrap();
    assert!(stream.wait().unwrap().success());
    assert!(Said::of(&loaded).last().ends_with("localhost/streamed:1"), "{loaded:?}");
    assert_eq!(podman.sh("localhost/streamed:1", "echo it runs"), "it runs\n");
}

/// An image with a shell, as other programs write it: skopeo's archives and directory, and Podman's archive of two images.
fn base(podman: &Podman) -> PathBuf {
    let archive = built(r#"(f.buildImage { name = "base"; tag = "1"; contents = [ pkgs.busybox ]; config = { Env = [ "PATH=/bin" "BASE=1" ]; Cmd = [ "/bin/sh" ]; }; }).archive"#).unwrap();
    let folder = podman.env.path("bases");
    std::fs::create_dir(&folder).unwrap();
    let from = format!("docker-archive:{}", archive.display());
    let copy = |to: &str| {
        let to = to.replace('@', folder.to_str().unwrap());
        run_ok(podman.command("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to]));
    };
    copy("docker-archive:@/docker.tar:registry.example/team/base:1");
    copy("oci-archive:@/oci.tar:1");
    copy("oci:@/oci:1");
    run_ok(Command::new("gzip").args(["--keep", "--no-name"]).arg(folder.join("docker.tar")));
    podman.run(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let id = podman.run(&["create", "--pull=never", "localhost/base:1"]);
    podman.run(&["commit", "--quiet", "--change=ENV BASE=2", id.trim(), "localhost/other:2"]);
    let two = folder.join("two.tar");
    podman.run(&[
        "save",
        "--quiet",
        "--multi-image-archive",
        "--output",
        two.to_str().unwrap(),
        "localhost/base:1",
        "localhost/other:2",
    ]);
    folder
}

#[test]
fn an_image_that_another_program_wrote_is_built_upon() {
    let podman = Podman::new();
    let folder = base(&podman);
    let image = |file: &str, more: &str| {
        built(&format!(
            r#"f.buildImage {{ name = "above"; texts."/text" = "above\n"; fromImage = {}/{file}; {more} }}"#,
            folder.display()
        ))
    };
    let runs = |image: &Path| {
        let said = podman.load(image, &[]);
        assert_eq!(said.code, 0, "{said:?}");
        let summary: Value = serde_json::from_slice(&std::fs::read(image.join("image.json")).unwrap()).unwrap();
        podman.sh(summary["ref"].as_str().unwrap(), "cat /text; echo $BASE; busybox true && echo ran")
    };
    for file in ["docker.tar", "docker.tar.gz", "oci.tar", "oci"] {
        let image = image(file, "").unwrap();
        assert_eq!(runs(&image), "above\n1\nran\n", "{file}");
        podman.env.ok(["verify", "--full", image.to_str().unwrap()]);
    }
    // The archive has several; the one that is named is taken.
    assert_eq!(
        runs(&image("two.tar", r#"fromImageName = "localhost/other"; fromImageTag = "2";"#).unwrap()),
        "above\n2\nran\n"
    );
    assert_eq!(runs(&image("two.tar", r#"fromImageTag = "1";"#).unwrap()), "above\n1\nran\n");
    let error = image("two.tar", "").unwrap_err();
    assert!(
        error.contains("has 2 images (localhost/base:1, localhost/other:2); say with `reference` which one is meant"),
        "{error}"
    );
    let error = image("two.tar", r#"fromImageName = "third";"#).unwrap_err();
    assert!(error.contains("has no image that is called 'third'"), "{error}");
    let error = image("oci", r#"architecture = "riscv64";"#).unwrap_err();
    assert!(error.contains("is for linux/amd64, and linux/riscv64 was asked for"), "{error}");
    // The bytes are those that came: an OCI directory keeps its layers' digests.
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("oci/index.json")).unwrap()).unwrap();
    let imported = built(&format!(r#"f.importImage {{ name = "same"; source = {}/oci; }}"#, folder.display())).unwrap();
    let summary: Value = serde_json::from_slice(&std::fs::read(imported.join("image.json")).unwrap()).unwrap();
    assert_eq!(summary["digest"], index["manifests"][0]["digest"]);
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let env = Env::new();
    let import =
        |file: &Path| built(&format!(r#"f.importImage {{ name = "x"; source = {}; }}"#, file.display())).unwrap_err();
    let text = env.write("text", "not a tar file".repeat(100));
    assert!(
        import(&text).contains("an image is given as a docker-archive, an OCI archive or an OCI directory"),
        "{}",
        import(&text)
    );
    env.write("folder/file", "x");
    let error = import(&env.path("folder"));
    assert!(error.contains("is no OCI directory: index.json cannot be read"), "{error}");
    run_ok(Command::new("tar").arg("-cf").arg(env.path("other.tar")).arg("-C").arg(env.path("folder")).arg("file"));
    let error = import(&env.path("other.tar"));
    assert!(error.contains("is a tar file without manifest.json and without oci-layout"), "{error}");
    env.write("lacks/manifest.json", r#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#);
    run_ok(
        Command::new("tar").arg("-cf").arg(env.path("lacks.tar")).arg("-C").arg(env.path("lacks")).arg("manifest.json"),
    );
    let error = import(&env.path("lacks.tar"));
    assert!(error.contains("has no c.json, which its manifest.json names"), "{error}");
    let error =
        try_eval(&with_packages(r#"(f.importImage { name = "x"; source = "/srv/base.tar"; }).drvPath"#)).unwrap_err();
    assert!(error.contains("write the path without quotes"), "{error}");
    let error = try_eval(&with_packages(
        r#"(f.buildImage { name = "x"; fromImage = f.buildImage { name = "y"; }; fromImageTag = "1"; }).drvPath"#,
    ))
    .unwrap_err();
    assert!(error.contains("fromImageName and fromImageTag are for an archive or an OCI directory"), "{error}");
}

#[test]
fn what_the_table_says_to_write_instead_builds() {
    let env = Env::new();
    // uid, gid, uname, gname: as names where they are asked for.
    let image = built(
        r#"f.buildImage {
          name = "a";
          texts."/data/file" = "";
          perms = [ { uid = 1000; gid = 100; } ];
          layers = [ (f.buildLayer { deps = [ pkgs.zlib ]; perms = [ { path = pkgs.zlib; uid = 5; gid = 6; uname = "five"; gname = "six"; } ]; }) ];
        }"#,
    )
    .unwrap();
    let there = members(&env, &image);
    assert_eq!(there["/data/file"], "-rw-r--r-- 1000/100");
    let zlib = eval("\"${pkgs.zlib}\"");
    assert_eq!(there[zlib.as_str().unwrap()], "dr-xr-xr-x 5/6");
    let names = run_ok(Command::new("sh").arg("-c").arg(format!(
        "for layer in {}/blobs/sha256/*; do tar -tvf $layer 2>/dev/null; done || exit 0",
        env.path("members").display()
    )));
    assert!(names.lines().any(|line| line.contains(" five/six ")), "{names}");
    // mtime: that of the Nix store, everywhere.
    let times = run_ok(Command::new("sh").arg("-c").arg(format!(
        "for layer in {}/blobs/sha256/*; do TZ=UTC tar --full-time -tvf $layer 2>/dev/null; done || exit 0",
        env.path("members").display()
    )));
    assert!(times.lines().count() > 10 && times.lines().all(|line| line.contains(" 1970-01-01 00:00:01 ")), "{times}");
    // compressor: on the way out.
    let packed = env.path("packed.tar");
    env.ok(["export", image.to_str().unwrap(), "--compression", "gzip", "--output", packed.to_str().unwrap()]);
    let types = run_ok(Command::new("skopeo").args(["inspect", "--raw", &format!("oci-archive:{}", packed.display())]));
    assert!(types.contains("application/vnd.oci.image.layer.v1.tar+gzip"), "{types}");
    // includeStorePaths: what a config mentions is there, listed nowhere.
    let image = built(r#"f.buildImage { name = "b"; config.Cmd = [ "${pkgs.busybox}/bin/sh" ]; }"#).unwrap();
    let busybox = eval("\"${pkgs.busybox}\"");
    assert!(members(&env, &image).contains_key(&format!("{}/bin/sh", busybox.as_str().unwrap())));
}

#[test]
fn the_programs_that_nix2container_names_do_what_they_say() {
    let podman = Podman::new();
    let registry = RealRegistry::start(&podman.env);
    let image = |attribute: &str| {
        built(&format!(
            r#"(f.buildImage {{ name = "copied"; tag = "1"; contents = [ pkgs.busybox ]; config.Cmd = [ "/bin/sh" ]; }}){attribute}"#
        ))
        .unwrap()
    };
    let program =
        |attribute: &str, name: &str| podman.command(image(attribute).join("bin").join(name).to_str().unwrap());
    run_ok(&mut program(".copyToPodman", "load-image-copied"));
    assert_eq!(podman.sh("localhost/copied:1", "echo it runs"), "it runs\n");
    let to = format!("docker://{}/team/copied:1", registry.host);
    run_ok(program(".copyToRegistry", "push-image-copied").args([&to, "--insecure"]));
    let manifest =
        run_ok(podman.command("skopeo").args(["inspect", "--tls-verify=false", "--format={{.Digest}}", &to]));
    let summary: Value = serde_json::from_slice(&std::fs::read(image("").join("image.json")).unwrap()).unwrap();
    assert_eq!(manifest.trim(), summary["digest"].as_str().unwrap());
    // A docker that prints its arguments, as there is no docker here.
    let docker = podman.env.write(
        "bin/docker",
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" != --input ] || tar -xOf \"$2\" manifest.json; shift; done\n",
    );
    std::fs::set_permissions(&docker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", docker.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let said = run_ok(program(".copyToDockerDaemon", "docker-load-image-copied").env("PATH", path));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["RepoTags"], serde_json::json!(["localhost/copied:1"]));
}
