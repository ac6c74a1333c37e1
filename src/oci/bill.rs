//! Bills of materials that the publisher of an image has attached to it.

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// In which format a bill of materials is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BillFormat {
    Spdx,
    CycloneDx,
}

/// What the bytes of a bill of materials are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BillForm {
    /// The document itself.
    Document,
    /// An in-toto statement, whose predicate is the document.
    Statement,
    /// Such a statement in a DSSE envelope.
    Envelope,
    /// Such an envelope in a Sigstore bundle.
    Bundle,
}

/// A bill of materials that is attached to an image, by digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttachedBill {
    /// The manifest or index that it is about.
    pub(crate) subject: Digest,
    pub(crate) format: BillFormat,
    pub(crate) form: BillForm,
    /// Its bytes.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// Who has signed it, verified as the image is: the digest of a key, or an identity. Absent where it is attached and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
}

impl BillFormat {
    /// The format of documents of a media type: as the formats register them, and as `cosign attach sbom` writes them.
    pub(crate) fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next()?.trim() {
            "application/spdx+json" | "text/spdx+json" | "text/spdx" | "spdx+json" => Some(Self::Spdx),
            "application/vnd.cyclonedx+json" | "application/vnd.cyclonedx" | "application/vnd.cyclonedx+xml" => {
                Some(Self::CycloneDx)
            }
            _ => None,
        }
    }

    /// The format of what a statement states.
    pub(crate) fn of_predicate(kind: &str) -> Option<Self> {
        let is = |name: &str| kind.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match () {
            () if is("https://spdx.dev/Document") => Some(Self::Spdx),
            () if is("https://cyclonedx.org/bom") => Some(Self::CycloneDx),
            () => None,
        }
    }

    /// As people call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Spdx => "SPDX",
            Self::CycloneDx => "CycloneDX",
        }
    }
}

impl BillForm {
    /// What the bytes are, in words.
    pub(crate) const fn told(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Statement => "document in an in-toto statement",
            Self::Envelope => "document in a DSSE envelope",
            Self::Bundle => "document in a Sigstore bundle",
        }
    }
}

impl AttachedBill {
    /// What it is, and who vouches for it.
    pub(crate) fn told(&self) -> String {
        let (format, form) = (self.format.title(), self.form.told());
        match &self.signed_by {
            Some(signer) => format!("{format} {form}, signed by {signer}, verified when it was locked"),
            None => format!("{format} {form}, attached by its publisher; no signature of it was verified"),
        }
    }

    /// Where it is: the blob of this digest in the repository of `reference`, as oras and regctl name it.
    pub(crate) fn place(&self, reference: Option<&str>) -> String {
        match reference {
            Some(reference) => format!("oci://{}@{}", super::reference::image_name(reference).0, self.digest),
            None => format!("urn:{}", self.digest),
        }
    }
}
