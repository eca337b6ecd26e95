//! What stands in metadata and payloads: the JSON that each kind carries, both ways.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::frame::{METADATA_BYTES_MAX, VERSION_HIGHEST, VERSION_LOWEST};
use crate::{Argument, Arguments, Call, Preload};

/// HELLO from the owner.
#[derive(Serialize)]
pub(super) struct OwnerHello<'a> {
    version_lowest: u16,
    version_highest: u16,
    #[serde(skip_serializing_if = "Preload::is_empty")]
    preload: &'a Preload,
}

impl<'a> OwnerHello<'a> {
    pub(super) fn new(preload: &'a Preload) -> OwnerHello<'a> {
        let (version_lowest, version_highest) = (VERSION_LOWEST, VERSION_HIGHEST);
        OwnerHello { version_lowest, version_highest, preload }
    }
}

/// HELLO from a worker.
#[derive(Deserialize)]
pub(super) struct WorkerHello {
    pub(super) version_lowest: u16,
    pub(super) version_highest: u16,
    #[serde(flatten)]
    pub(super) interpreter: Interpreter,
}

/// The Python on the other side, in its own words: nobody has verified them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interpreter {
    /// Its version, such as `3.11.2`.
    pub python: String,
    /// Its path inside.
    pub executable: String,
    /// Its process id inside.
    pub pid: u32,
}

/// FUNCTION.
#[derive(Serialize)]
pub(super) struct FunctionMetadata<'a> {
    pub(super) file_name: &'a str,
}

/// CALL.
#[derive(Serialize)]
pub(super) struct CallMetadata<'a> {
    function: &'a str,
    function_sha256: String,
    encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<&'a str>,
    accepts: &'static [&'static str],
    result_bytes_max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    submitted: Option<Submission>,
}

/// What CALL says besides if it is submitted.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Submission {
    pub(crate) keep: bool,
    pub(crate) rerun: bool,
}

impl<'a> CallMetadata<'a> {
    pub(super) fn new(
        call: &'a Call,
        function_sha256: String,
        result_bytes_max: u64,
        pool: Option<u64>,
        submitted: Option<Submission>,
    ) -> Self {
        // Who pickles arguments is Python and can take a pickle back.
        let (encoding, python, accepts): (_, _, &[_]) = match &call.arguments {
            Arguments::Json { .. } => ("json", None, &["json"]),
            Arguments::Pickle { python, .. } => {
                ("pickle", Some(python.as_str()), &["json", "pickle"])
            }
        };
        let function = &call.function;
        CallMetadata {
            function,
            function_sha256,
            encoding,
            python,
            accepts,
            result_bytes_max,
            pool,
            submitted,
        }
    }
}

/// The payload of a CALL whose arguments are JSON. The order of names is the map's, so that equal
/// arguments have equal digests.
#[derive(Serialize)]
pub(super) struct JsonArguments<'a> {
    pub(super) positional: &'a [Argument],
    pub(super) named: &'a BTreeMap<String, Argument>,
}

/// RESULT.
#[derive(Deserialize)]
#[serde(tag = "encoding", rename_all = "lowercase")]
pub(super) enum ResultMetadata {
    Json,
    Pickle {
        python: String,
        /// Offset and bytes of each out-of-band buffer.
        #[serde(default)]
        buffers: Vec<[u64; 2]>,
    },
}

/// An exception that left the function, or its import. All text is the function's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Raised {
    /// Class of the exception, with its module unless that is `builtins`.
    #[serde(rename = "type")]
    pub exception: String,
    /// What it says; empty if it says nothing.
    pub message: String,
    /// As Python would have printed it had the file run alone.
    pub traceback: String,
    /// For `SystemExit`: the code that Python would have ended with.
    pub exit_code: Option<u8>,
    /// For `ModuleNotFoundError`: the module. The environment lacks it.
    pub missing_module: Option<String>,
    /// The exception itself, pickled, in base64: for a caller that is Python. Not decoded here.
    pub pickle: Option<String>,
}

/// Why a worker did not make a call, or could not hand over its result.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Declined {
    /// In one word.
    pub reason: Reason,
    /// For people; with the operands.
    pub message: String,
    /// The way out, if the worker knows one; else empty.
    pub hint: String,
}

/// Why a worker did not make a call, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It does not speak this version of the protocol.
    Version,
    /// It does not know a frame of that kind.
    UnknownKind,
    /// A module that it was told to preload cannot be imported.
    Preload,
    /// The file defines no such name.
    NoFunction,
    /// The name is defined and is no function.
    NotCallable,
    /// The function or the arguments were pickled by another minor version of Python.
    PythonMismatch,
    /// The template of a container cannot fork safely.
    NotForkable,
    /// The function cannot be unpickled here.
    FunctionUndecodable,
    /// The arguments cannot be unpickled here.
    ArgumentsUndecodable,
    /// The function returned what neither side can send.
    ResultNotSerialisable,
    /// The function returned more than may come back.
    ResultTooLarge,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

/// CORRUPT.
#[derive(Deserialize)]
pub(super) struct CorruptMetadata {
    pub(super) what: CorruptPart,
    pub(super) expected: String,
    pub(super) got: String,
}

/// What a worker may call corrupt.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum CorruptPart {
    Header,
    Metadata,
    Function,
    Arguments,
    Payload,
}

/// NEED.
#[derive(Deserialize)]
pub(super) struct NeedMetadata {
    pub(super) function_sha256: String,
}

const _: () = assert!(
    METADATA_BYTES_MAX <= 64 << 10,
    "metadata is parsed into values some 30 times its size: read docs/protocol.md, \"Limits\""
);

/// Checks that a text is one JSON value that [`serde_json::Value`] can hold, and builds nothing.
///
/// A value takes up to 50 times the memory of its text, so a payload stays text until somebody
/// needs more. Nesting is bounded by `serde_json` (128 levels), numbers by `f64`.
pub(super) fn check_json(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Checked>(text).map(|Checked| ())
}

struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        deserializer.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Checked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Checked, A::Error> {
        while items.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Checked, A::Error> {
        while entries.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(Checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_what_a_value_can_hold() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (shallow, deep) = (nested(100), nested(200));
        for text in [
            "null",
            "[1,2.5,-3]",
            "{\"a\":[true,\"\\u00e9\"]}",
            "1e999",
            "[1,]",
            "",
            "[",
            "NaN",
            "1 2",
            "\"\\ud800\"",
            "{1:2}",
            "18446744073709551616",
            &shallow,
            &deep,
        ] {
            let value = serde_json::from_str::<serde_json::Value>(text);
            assert_eq!(check_json(text).is_ok(), value.is_ok(), "{text}");
        }
        assert!(check_json(&shallow).is_ok() && check_json(&deep).is_err());
    }
}
