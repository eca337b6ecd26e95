//! The JSON Schema of policy files, for editors and for checks before a file is rolled out.

use crate::keys::Keys;

/// The JSON Schema (draft 2020-12) of a policy file. Its descriptions are the admin's manual.
///
/// It is a little more lenient than the program: that a default is not above its bound, that a list
/// says nothing twice, and that a pattern can match at all, is checked on reading only.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Keys).to_value()
}
