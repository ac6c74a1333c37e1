//! What scanners have found, in the forms that they write: CycloneDX with vulnerabilities, grype's JSON, and cve-bin-tool's.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::BuildError;
use crate::disk::AtPath;
use crate::disk::bounded::{self, Cap};
use crate::spec::policy::Severity;

/// A vulnerability of a version of a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ScanFinding {
    pub(super) name: String,
    pub(super) version: String,
    /// `CVE-2026-1234`
    pub(super) id: String,
    pub(super) severity: Severity,
}

/// Reads a report, each finding once.
///
/// # Errors
/// If it cannot be read, or has another form.
pub(super) fn read_scan(path: &Path) -> Result<Vec<ScanFinding>, BuildError> {
    let bytes = bounded::read(path, Cap::Document).at("read", path)?;
    let unfit = |message: String| BuildError::Unfit { path: path.to_owned(), message };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| unfit(format!("is not JSON: {error}")))?;
    let found = match &value {
        Value::Array(rows) => rows.iter().map(cve_bin_tool).collect::<Option<Vec<_>>>(),
        Value::Object(object) if object.contains_key("matches") => {
            value["matches"].as_array().and_then(|rows| rows.iter().map(grype).collect::<Option<Vec<_>>>())
        }
        Value::Object(object) if object.contains_key("bomFormat") => Some(cyclonedx(&value)),
        _ => None,
    };
    let mut found = found.ok_or_else(|| {
        unfit(
            "is not a report that windlass reads: give CycloneDX with `vulnerabilities`, `grype --output json`, or `cve-bin-tool --format json`"
                .to_owned(),
        )
    })?;
    found.sort();
    found.dedup();
    Ok(found)
}

fn finding(name: &Value, version: &Value, id: &Value, severity: &Value) -> Option<ScanFinding> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let severity = Severity::of(severity.as_str().unwrap_or_default());
    Some(ScanFinding { name: text(name)?, version: text(version)?, id: text(id)?, severity })
}

fn cve_bin_tool(row: &Value) -> Option<ScanFinding> {
    finding(&row["product"], &row["version"], &row["cve_number"], &row["severity"])
}

fn grype(row: &Value) -> Option<ScanFinding> {
    let (artifact, vulnerability) = (&row["artifact"], &row["vulnerability"]);
    finding(&artifact["name"], &artifact["version"], &vulnerability["id"], &vulnerability["severity"])
}

/// Vulnerabilities of components of the same document. What its makers say is not affected, is not.
fn cyclonedx(bom: &Value) -> Vec<ScanFinding> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let mut components = BTreeMap::new();
    for component in list(&bom["components"]) {
        if let Some(reference) = component["bom-ref"].as_str() {
            components.insert(reference.to_owned(), component.clone());
        }
    }
    let mut found = Vec::new();
    for vulnerability in list(&bom["vulnerabilities"]) {
        let state = vulnerability["analysis"]["state"].as_str().unwrap_or_default();
        if ["not_affected", "false_positive", "resolved", "resolved_with_pedigree"].contains(&state) {
            continue;
        }
        // The worst of several sources counts; without one it is not known how bad it is.
        let ratings = list(&vulnerability["ratings"]);
        let worst =
            ratings.iter().filter_map(|rating| rating["severity"].as_str()).max_by_key(|word| Severity::of(word));
        let severity = Value::from(worst.unwrap_or_default());
        for affected in list(&vulnerability["affects"]) {
            let component = affected["ref"].as_str().and_then(|reference| components.get(reference));
            found.extend(component.and_then(|component| {
                finding(&component["name"], &component["version"], &vulnerability["id"], &severity)
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Vec<ScanFinding>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), value.to_string()).unwrap();
        read_scan(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn three_forms_say_the_same() {
        let expected = ScanFinding {
            name: "redis".to_owned(),
            version: "8.0.2".to_owned(),
            id: "CVE-2099-0001".to_owned(),
            severity: Severity::High,
        };
        for report in [
            json!([{ "product": "redis", "version": "8.0.2", "cve_number": "CVE-2099-0001", "severity": "HIGH" }]),
            json!({ "matches": [{ "artifact": { "name": "redis", "version": "8.0.2" },
                                  "vulnerability": { "id": "CVE-2099-0001", "severity": "High" } }] }),
            json!({ "bomFormat": "CycloneDX", "components": [{ "bom-ref": "a", "name": "redis", "version": "8.0.2" }],
                    "vulnerabilities": [
                        { "id": "CVE-2099-0001", "ratings": [{ "severity": "low" }, { "severity": "high" }], "affects": [{ "ref": "a" }] },
                        { "id": "CVE-2099-0002", "analysis": { "state": "not_affected" }, "affects": [{ "ref": "a" }] },
                    ] }),
        ] {
            assert_eq!(read(&report), Ok(vec![expected.clone()]), "{report}");
        }
        assert_eq!(read(&json!([])), Ok(Vec::new()));
        for other in [json!({}), json!("x"), json!([{ "x": 1 }]), json!({ "matches": [1] })] {
            assert!(read(&other).unwrap_err().contains("is not a report that windlass reads"), "{other}");
        }
    }
}
