//! A real registry on loopback: Debian's docker-registry, plain, with a login, or as a mirror of another.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::env::{Env, run_ok};

/// A registry that is killed when it is dropped.
pub(crate) struct RealRegistry {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    child: Child,
}

impl RealRegistry {
    /// One that lets everybody read and write.
    pub(crate) fn start(env: &Env) -> Self {
        Self::with(env, "", "")
    }

    /// One for this user only.
    pub(crate) fn with_login(env: &Env, user: &str, password: &str) -> Self {
        Self::with(env, &login(env, user, password), "")
    }

    /// One that speaks HTTPS, and the certificate to trust.
    pub(crate) fn with_tls(env: &Env) -> (Self, PathBuf) {
        Self::tls(env, "")
    }

    /// The same for this user only.
    pub(crate) fn with_tls_and_login(env: &Env, user: &str, password: &str) -> (Self, PathBuf) {
        Self::tls(env, &login(env, user, password))
    }

    fn tls(env: &Env, more: &str) -> (Self, PathBuf) {
        let (key, certificate) = (env.path("tls.key"), env.path("tls.pem"));
        let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry \
             -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1";
        let mut openssl = Command::new("openssl");
        openssl.args(options.split_whitespace()).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        run_ok(&mut openssl);
        let tls = format!("tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        (Self::with(env, more, &tls), certificate)
    }

    /// A mirror that gets from the other what it does not have.
    pub(crate) fn mirror_of(env: &Env, other: &Self) -> Self {
        Self::with(env, &format!("proxy: {{remoteurl: \"http://{}\"}}", other.host), "")
    }

    fn with(env: &Env, more: &str, http: &str) -> Self {
        // Another process may take the port before the registry does: then the next one.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let host = format!("127.0.0.1:{port}");
            let data = env.path(format!("registry-{port}"));
            let storage = format!("{{rootdirectory: {}}}", data.display());
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{cache: {{blobdescriptor: inmemory}}, filesystem: \
                 {storage}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{host}\", {http}}}\n{more}\n"
            );
            let config = env.write(format!("registry-{port}.yml"), text);
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child =
                command.spawn().unwrap_or_else(|error| panic!("docker-registry: {error}; `./dev setup` installs it"));
            let mut started = Self { host, child };
            if started.answers() {
                return started;
            }
        }
        panic!("docker-registry does not start");
    }

    /// Waits until it does, or has ended.
    fn answers(&mut self) -> bool {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(&self.host).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Ends it: from now on nothing listens there.
    pub(crate) fn stop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The setting for a registry with a login.
fn login(env: &Env, user: &str, password: &str) -> String {
    let line = run_ok(Command::new("htpasswd").args(["-Bbn", "-C", "4", user, password]));
    let file = env.write("htpasswd", line);
    format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", file.display())
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
