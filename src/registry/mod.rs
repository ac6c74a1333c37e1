//! Registries: a client of the OCI distribution protocol, as Docker Hub, quay.io, ghcr.io and the rest speak it.
//!
//! | part | what it does |
//! |---|---|
//! | [`location`] | says where an image is |
//! | [`options`] | what the caller says of the surroundings: logins, proxy, certificates, how long is waited |
//! | [`credentials`] | finds the user's login for a repository |
//! | `transport` `token` `url` | one request: connections, tokens, redirects, tries |
//! | `answer` `stream` | what comes back, and what is sent while it is made |
//! | `sockets` | sockets and names, and how long they are waited for |
//! | [`client`] `tags` | manifests and small blobs; the tags of a repository |
//! | [`blobs`] | large blobs into files, resumed |
//! | [`web`] | files of other web servers, in the same way |
//! | [`upload`] | blobs and manifests to a registry |
//! | [`referrers`] | manifests that are about other manifests |
//! | [`local_socket`] | servers of this host that listen on a socket in the file system |
//!
//! Everything that comes in is checked against its digest before anybody sees it. A login goes to its registry and to the
//! place that this registry gets its tokens from, never to another one; no error and no debug output shows it.

mod answer;
pub(crate) mod blobs;
pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod local_socket;
pub(crate) mod location;
pub(crate) mod options;
pub(crate) mod referrers;
mod sockets;
mod stream;
mod tags;
mod token;
mod transport;
pub(crate) mod upload;
mod url;
pub(crate) mod web;
