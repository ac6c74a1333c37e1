//! The integration tests: one binary, a file for each verb or oracle.

mod oracle;
