//! The tags of a repository (distribution-spec 1.1, *Listing Tags*). Registries do not count it as a pull.

use serde::Deserialize;
use ureq::http::Method;

use super::answer::header_text;
use super::client::RegistryClient;
use super::error::RegistryError;
use super::location::Location;
use crate::disk::progress::Progress;

/// Tags of a page that are asked for. A registry may send fewer.
const PAGE: usize = 1000;
/// Pages that are read: GHCR keeps a tag for every build, and repositories of 20,000 tags are there.
const PAGES: usize = 100;
/// Bytes of a page.
const MAX_PAGE: u64 = 4 << 20;

#[derive(Deserialize)]
struct Page {
    /// Null, for some registries, where there are none.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl RegistryClient {
    /// All tags of a repository, as the registry sorts them.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn tags(&self, at: &Location, progress: &Progress) -> Result<Vec<String>, RegistryError> {
        let what = format!("the tags of {}", at.name());
        let mut tags = Vec::new();
        let mut query = format!("n={PAGE}");
        for _ in 0..PAGES {
            let (page, next) = self.transport.retrying(at, progress, || {
                let ask = self.ask(at, &what, Method::GET, &format!("tags/list?{query}"))?;
                let response = self.transport.send(&ask, progress)?;
                let next = header_text(response.headers(), "link").and_then(next_query).map(str::to_owned);
                let bytes = self.transport.incoming(&ask, response, progress).all(MAX_PAGE, "list of tags")?;
                let page: Page = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Malformed {
                    host: at.host().to_owned(),
                    what: what.clone(),
                    reason: error.to_string(),
                })?;
                Ok((page, next))
            })?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => query = next,
                None => return Ok(tags),
            }
        }
        Err(RegistryError::TooLarge { what, kind: "list of tags", limit: PAGES as u64 * MAX_PAGE })
    }
}

/// The query of the next page from a header `Link`. Only the query is taken: the next page is on the same registry.
fn next_query(link: &str) -> Option<&str> {
    let (target, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = relation.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next"));
    let (_, query) = target.split_once('?')?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    (is_next && query.bytes().all(plain)).then_some(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_registry() {
        for (link, query) in [
            ("</v2/a/app/tags/list?last=1.0&n=2>; rel=\"next\"", Some("last=1.0&n=2")),
            ("<https://elsewhere.example/v2/b/tags/list?last=x>;rel=next", Some("last=x")),
            ("</v2/a/app/tags/list?last=1.0>; rel=\"prev\"", None),
            ("</v2/a/app/tags/list>; rel=\"next\"", None),
            ("</v2/a/app/tags/list?a#b>; rel=\"next\"", None),
            ("next", None),
        ] {
            assert_eq!(next_query(link), query, "{link}");
        }
    }
}
