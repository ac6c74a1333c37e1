//! PostgreSQL, run as the stack describes its container: a cluster is made once, whole, and never over another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::engine::Said;
use crate::env::run_ok;
use crate::nix::eval;
use crate::services::{Service, until, write};
/// What survives a kill need not be on the disk; this saves the tests some seconds.
const NO_SYNC: &str = "--env=POSTGRES_INITDB_ARGS=--no-sync";

const PASSWORD: &str = r#"s3cret 'of' "nobody" \else"#;

/// SQL over the socket, as the superuser `app` in database `shop`.
fn sql(postgres: &Service, name: &str, statement: &str) -> String {
    let command = ["psql", "--no-psqlrc", "--username=app", "--dbname=shop", "-Atqc", statement];
    let said = postgres.exec(name, &command);
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.trim().to_owned()
}

#[test]
fn postgres_makes_a_cluster_in_an_empty_volume_and_comes_back_after_a_kill() {
    let postgres = Service::new("postgres");
    let scripts = postgres.directory("initdb.d");
    let script = |name: &str, text: &[u8], mode: u32| write(&scripts.join(name), text, mode);
    let insert = |by: &str| format!("INSERT INTO seen (by) VALUES ('{by}');\n").into_bytes();
    let packed = |program: &str, text: &[u8]| {
        let plain = postgres.podman.env.write("plain", text);
        let output = Command::new(program).arg("-c").arg(plain).output().unwrap();
        assert!(output.status.success() && output.stdout != text, "{program}: {output:?}");
        output.stdout
    };
    let zstd = eval("\"${pkgs.zstd}/bin/zstd\"").as_str().unwrap().to_owned();
    let xz = "import lzma, sys; sys.stdout.buffer.write(lzma.compress(open(sys.argv[1], 'rb').read()))";
    let xz =
        Command::new("python3").args(["-c", xz]).arg(postgres.podman.env.write("xz", insert("xz"))).output().unwrap();
    let waits = "#!/bin/sh\nset -e\npsql -qc 'CREATE TABLE seen (n serial, by text)'\n\
                 psql -qc \"INSERT INTO seen (by) VALUES ('executed as $POSTGRES_USER')\"\n\
                 until [ -e /docker-entrypoint-initdb.d/go ]; do sleep 0.05; done\n";
    script("10-waits.sh", waits.as_bytes(), 0o755);
    script("9-plain.sql", &insert("sql"), 0o644);
    script("Z.sql.gz", &packed("gzip", &insert("gzip")), 0o644);
    script("a.sql.xz", &xz.stdout, 0o644);
    script("b.sql.zst", &packed(&zstd, &insert("zstd")), 0o644);
    let sourced =
        "psql -q <<SQL\nINSERT INTO seen (by) VALUES ('sourced in $POSTGRES_DB, ${#POSTGRES_PASSWORD}');\nSQL\n";
    script("c.sh", sourced.as_bytes(), 0o644);
    script("notes.txt", b"", 0o644);

    let scripts_volume = format!("--volume={}:/docker-entrypoint-initdb.d:ro", scripts.display());
    let secret = postgres.secret("postgres-password", &format!("{PASSWORD}\n"));
    let options = [&scripts_volume, &secret, "--env=POSTGRES_USER=app", "--env=POSTGRES_DB=shop"];
    postgres.start("postgres", "data", &options);
    until("the first script", || postgres.logs("postgres").contains("10-waits.sh"));
    assert!(!postgres.is_healthy("postgres"), "while it is made");
    script("go", b"", 0o644);
    postgres.healthy("postgres");
    let seen = "SELECT string_agg(by, '|' ORDER BY n) FROM seen";
    let expected = format!("executed as app|sql|gzip|xz|zstd|sourced in shop, {}", PASSWORD.len());
    assert_eq!(sql(&postgres, "postgres", seen), expected);
    assert!(postgres.logs("postgres").contains("notes.txt is left out"));

    let over_tcp = |password: &str, statement: &str| {
        let variable = format!("--env=PGPASSWORD={password}");
        let mut exec = postgres.podman.command("podman");
        exec.args(["exec", &variable, "postgres", "psql", "--host=127.0.0.1", "--username=app", "--dbname=shop"]);
        Said::of(&exec.args(["--no-password", "-Atqc", statement]).output().unwrap())
    };
    let settings = "SELECT rolname, rolpassword ^@ 'SCRAM-SHA-256', current_setting('data_checksums'), \
                    current_setting('server_encoding') FROM pg_authid WHERE rolname = current_user";
    assert_eq!(over_tcp(PASSWORD, settings).last(), "app|t|on|UTF8");
    let wrong = over_tcp("wrong", "SELECT 1");
    assert!(wrong.code == 2 && wrong.stderr.contains("password authentication failed"), "{wrong:?}");
    let vectors = "CREATE EXTENSION vector; CREATE TABLE items (name text, at vector(3));
        INSERT INTO items VALUES ('far', '[9,9,9]'), ('near', '[1,1,2]'), ('there', '[1,5,1]');
        CREATE INDEX ON items USING hnsw (at vector_l2_ops);";
    assert_eq!(over_tcp(PASSWORD, vectors).code, 0);
    assert_eq!(over_tcp(PASSWORD, "SELECT name FROM items ORDER BY at <-> '[1,1,1]' LIMIT 1").last(), "near");

    // Nowhere to be seen: not even by a program that the server starts.
    let programs =
        "CREATE TEMP TABLE env (line text); COPY env FROM PROGRAM 'env'; SELECT string_agg(line, ' ') FROM env";
    let environment = sql(&postgres, "postgres", programs);
    assert!(environment.contains("PGDATA=/var/lib/postgresql/data"), "{environment}");
    let processes = postgres.exec("postgres", &["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"]).stdout;
    assert!(processes.contains("postgres: checkpointer"), "{processes}");
    for text in [environment, processes, postgres.logs("postgres"), postgres.podman.run(&["inspect", "postgres"])] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert_eq!(postgres.exec("postgres", &["stat", "-c", "%u:%g", "/proc/1"]).last(), "5432:5432");

    postgres.kill("postgres");
    postgres.podman.run(&["start", "postgres"]);
    postgres.healthy("postgres");
    assert_eq!(sql(&postgres, "postgres", "SELECT count(*) FROM items"), "3");
    assert_eq!(sql(&postgres, "postgres", seen), expected, "the scripts ran once");
    let logs = postgres.logs("postgres");
    assert!(logs.contains("was not properly shut down; automatic recovery in progress"), "{logs}");
    postgres.podman.run(&["stop", "postgres"]);
    assert!(
        postgres.logs("postgres").trim_end().ends_with("database system is shut down"),
        "{}",
        postgres.logs("postgres")
    );
    assert_eq!(postgres.podman.run(&["inspect", "--format={{.State.ExitCode}}", "postgres"]), "0\n");

    // As a variable, `podman inspect` shows it, but the server does not have it.
    let variable = format!("--env=POSTGRES_PASSWORD={PASSWORD}");
    postgres.start("variable", "other", &[&variable, "--env=POSTGRES_USER=app", "--env=POSTGRES_DB=shop"]);
    postgres.healthy("variable");
    let environment = sql(&postgres, "variable", programs);
    assert!(environment.contains("POSTGRES_USER=app") && !environment.contains("s3cret"), "{environment}");
}

#[test]
fn a_kill_while_postgres_makes_its_cluster_is_repaired_by_the_next_start() {
    let postgres = Service::new("postgres");
    let scripts = postgres.directory("initdb.d");
    let once = "CREATE TABLE once (n int); INSERT INTO once VALUES (1);\n";
    fs::write(scripts.join("1.sql"), once).unwrap();
    fs::write(scripts.join("2.sh"), "[ -e /docker-entrypoint-initdb.d/go ] || sleep 1000\n").unwrap();
    let scripts_volume = format!("--volume={}:/docker-entrypoint-initdb.d:ro", scripts.display());
    let secret = postgres.secret("postgres-password", PASSWORD);
    let options = [&scripts_volume, &secret, "--env=POSTGRES_USER=app", "--env=POSTGRES_DB=shop", NO_SYNC];
    let data = postgres.directory("data");
    fs::create_dir(data.join("lost+found")).unwrap();
    let new = data.join(".initialising");
    postgres.start("postgres", data.to_str().unwrap(), &options);

    // In initdb, in the server's first run, in a script.
    let logged = |text: &str| postgres.logs("postgres").contains(text);
    let moments: [(&str, &dyn Fn() -> bool); 3] = [
        ("initdb", &|| new.join("data/base/1").exists()),
        ("the server's first run", &|| logged("listening on Unix socket")),
        ("a script", &|| logged("running /docker-entrypoint-initdb.d/2.sh")),
    ];
    for (moment, has_come) in moments {
        until(moment, has_come);
        postgres.kill("postgres");
        assert!(new.exists() && !data.join("PG_VERSION").exists(), "{moment}");
        postgres.podman.run(&["start", "postgres"]);
    }
    // Stopped there, it does not let the one wait who stops it.
    until("the script again", || {
        postgres.logs("postgres").matches("running /docker-entrypoint-initdb.d/2.sh").count() == 2
    });
    let begun = Instant::now();
    postgres.podman.run(&["stop", "postgres"]);
    assert!(begun.elapsed() < Duration::from_secs(20));
    fs::write(scripts.join("go"), "").unwrap();
    let starts = || {
        postgres.podman.run(&["start", "postgres"]);
        postgres.healthy("postgres");
        assert_eq!(sql(&postgres, "postgres", "SELECT count(*) FROM once"), "1");
        assert!(!new.exists() && data.join("lost+found").exists());
        postgres.podman.run(&["stop", "postgres"]);
    };
    starts();

    // In the move to its place: nothing moved, a part, all but the last, and the last too.
    let mut entries: Vec<PathBuf> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| !path.ends_with("lost+found"));
    entries.sort_by_key(|path| (path.ends_with("PG_VERSION"), path.clone()));
    for moved in [0, entries.len() / 2, entries.len() - 1, entries.len()] {
        fs::create_dir_all(new.join("data")).unwrap();
        fs::write(new.join("whole"), "").unwrap();
        for path in &entries[moved..] {
            fs::rename(path, new.join("data").join(path.file_name().unwrap())).unwrap();
        }
        fs::set_permissions(new.join("data"), PermissionsExt::from_mode(0o700)).unwrap();
        [&new, &new.join("data"), &new.join("whole")].iter().for_each(|path| postgres.own(path));
        starts();
    }
}

#[test]
fn postgres_refuses_what_it_cannot_start_with_and_changes_nothing() {
    let postgres = Service::new("postgres");
    let secret = postgres.secret("postgres-password", "x");
    let files = |path: &Path| run_ok(Command::new("find").arg(path).args(["-printf", "%P %m %U %s\n"]));
    let refused = |volume: &Path, options: &[&str], expected: &str| {
        let before = files(volume);
        let said = postgres.refused(volume, options);
        assert!(said.contains(expected), "{said}");
        assert_eq!(files(volume), before, "{said}");
    };
    let empty = postgres.directory("empty");
    fs::set_permissions(&empty, PermissionsExt::from_mode(0o700)).unwrap();
    let both = ["--env=POSTGRES_PASSWORD=y", "--env=POSTGRES_PASSWORD_FILE=/run/secrets/postgres-password", &secret];
    refused(&empty, &both, "POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set: give one of them");
    refused(&empty, &[], "the superuser needs a password: give the secret postgres-password or");
    let nothing = postgres.secret("nothing", "\n");
    let file = "--env=POSTGRES_PASSWORD_FILE=/run/secrets/nothing";
    refused(&empty, &[&nothing, file], "the superuser needs a password");
    refused(&empty, &[file], "POSTGRES_PASSWORD_FILE: there is no /run/secrets/nothing, or user 5432 may not read it");
    refused(&empty, &["--user=0", &secret], "the server does not run as root");

    let older = postgres.directory("older");
    fs::write(older.join("PG_VERSION"), "15\n").unwrap();
    postgres.own(&older.join("PG_VERSION"));
    refused(
        &older,
        &[&secret],
        "/var/lib/postgresql/data is of PostgreSQL 15, and this is 17; nothing was changed. Dump it",
    );
    fs::rename(older.join("PG_VERSION"), older.join("other")).unwrap();
    fs::set_permissions(&older, PermissionsExt::from_mode(0o700)).unwrap();
    refused(&older, &[&secret], "has other in it and no PG_VERSION: it is neither empty nor a data directory");
    let foreign = postgres.podman.env.path("foreign");
    fs::create_dir(&foreign).unwrap();
    let sentence = "/var/lib/postgresql/data belongs to 0:0, and the server runs as 5432:5432. Mend it on the host with chown -R 5432:5432";
    refused(&foreign, &[&secret], sentence);

    // A script that fails is named, and after it nothing runs; mended, the next start makes the cluster.
    let scripts = postgres.directory("initdb.d");
    let scripts_volume = format!("--volume={}:/docker-entrypoint-initdb.d:ro", scripts.display());
    let script = |name: &str, text: &str, mode: u32| write(&scripts.join(name), text.as_bytes(), mode);
    script("3.sh", "echo >&2 not reached\n", 0o644);
    let failing = [
        ("1.sql", "SELECT 1;\nSELEC;\n", r#"1.sql:2: ERROR:  syntax error at or near "SELEC""#),
        ("2.sh", "false\ntrue\n", ""),
        ("1.sql.gz", "not gzip", "gunzip"),
    ];
    for (name, text, expected) in failing {
        script(name, text, 0o644);
        let said = postgres.refused(&empty, &[&secret, &scripts_volume, NO_SYNC]);
        assert!(said.contains(expected), "{said}");
        let end = format!("not initialised: stopped at /docker-entrypoint-initdb.d/{name}\n");
        assert!(said.ends_with(&end), "{said}");
        assert!(!said.contains("not reached"), "{said}");
        fs::remove_file(scripts.join(name)).unwrap();
    }
    script("1.sh", "#!/bin/bash\n", 0o755);
    let said = postgres.refused(&empty, &[&secret, &scripts_volume, NO_SYNC]);
    assert!(said.contains("here are the programs of PostgreSQL and busybox, sh among them, and no bash"), "{said}");
    fs::remove_file(scripts.join("1.sh")).unwrap();
    let trust = [
        "--env=POSTGRES_HOST_AUTH_METHOD=trust",
        "--env=POSTGRES_USER=app",
        "--env=POSTGRES_DB=shop",
        &scripts_volume,
        NO_SYNC,
    ];
    postgres.start("postgres", empty.to_str().unwrap(), &trust);
    postgres.healthy("postgres");
    let logs = postgres.logs("postgres");
    assert!(logs.contains("not reached") && logs.contains("is let in without a password"), "{logs}");
    assert_eq!(sql(&postgres, "postgres", "SELECT 1"), "1");
    postgres.podman.run(&["kill", "--signal=STOP", "postgres"]);
    assert!(!postgres.is_healthy("postgres"), "it does not answer");
    postgres.podman.run(&["kill", "--signal=CONT", "postgres"]);
    postgres.healthy("postgres");
}

/// A user's Podman, with the user's own number as the container's: their directory, the image from root's store.
#[test]
fn a_user_runs_postgres_in_a_directory_of_their_own() {
    let postgres = Service::new("postgres");
    let script = r#"set -e
        chmod 755 $T; mkdir -p $T/home/.config/containers $T/rt $T/home/data; chmod 700 $T/rt; printf pw >$T/home/password
        cp /etc/passwd $T/passwd; echo w:x:12345:12345::$T/home:/bin/sh >>$T/passwd; mount --bind $T/passwd /etc/passwd
        echo w:200000:65536 >$T/ids; mount --bind $T/ids /etc/subuid; mount --bind $T/ids /etc/subgid
        mount -t tmpfs tmpfs /etc/containers
        printf '[storage]\ndriver = "overlay"\n[storage.options]\nadditionalimagestores = ["%s"]\n' $STORE \
            >$T/home/.config/containers/storage.conf
        sed /tmp_dir/d $T/podman/containers.conf >$T/home/.config/containers/containers.conf
        chown -R 12345:12345 $T/home $T/rt; cd /
        # As `windlass doctor --share` does it.
        chmod 755 $STORE; mount --bind $STORE $STORE; mount -o remount,bind,ro $STORE
        as() { setpriv --reuid=12345 --regid=12345 --clear-groups env HOME=$T/home XDG_RUNTIME_DIR=$T/rt "$@"; }
        as podman run --detach --name postgres --pull=never --network=none --health-interval=disable \
            --userns=keep-id:uid=5432,gid=5432 --volume=$T/home/data:/var/lib/postgresql/data \
            --volume=$T/home/password:/run/secrets/postgres-password:ro "$@" >/dev/null
        for try in $(seq 600); do
            if as podman healthcheck run postgres >/dev/null 2>&1; then break; fi; sleep 0.1
        done
        as podman exec postgres psql -Atqc 'SELECT current_user' || as podman logs postgres >&2
        stat --format '%U' $T/home/data/PG_VERSION
        as podman rm --force postgres >/dev/null
        overlay=$T/home/.local/share/containers/storage/overlay
        as podman unshare sh -c 'if mountpoint -q $0; then umount -l $0; fi' $overlay
        umount --lazy $STORE; chmod 700 $STORE"#;
    let mut namespace = Command::new("unshare");
    namespace.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script, "bash"]);
    namespace.args(&postgres.flags).arg(&postgres.image).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    namespace.env("T", postgres.podman.env.path("").to_str().unwrap().trim_end_matches('/'));
    namespace.env("STORE", postgres.podman.home("storage")).env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
    assert_eq!(run_ok(&mut namespace), "postgres\nw\n");
}
