//! What a file says for one key: its written form, its place, and how it is read.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize as DeriveDeserialize;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::Access;
use crate::names::{
    AbsoluteFile, Directory, Host, ImagePattern, Location, Name, Offline, Permit, Text, Uid,
    Version,
};
use ric_yaml::{Placed, TextVisitor, Unit};

/// One key of a file: what it says, or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Key<T>(pub(crate) Option<Placed<T>>);

/// A list in a file.
pub(crate) type Listed<T> = Vec<Placed<T>>;

/// A limit in a file.
#[derive(Debug, Clone, DeriveDeserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, bound = "")]
#[schemars(inline, bound = "U: Unit")]
pub(crate) struct Limit<U: Unit> {
    /// For a task that asks for nothing, or `none`.
    pub(crate) default: Key<Amount<U>>,
    /// The most a task may ask for, or `none`.
    pub(crate) most: Key<Amount<U>>,
}

/// An amount, or `none`.
#[derive(Debug, Clone)]
pub(crate) struct Amount<U: Unit>(pub(crate) Option<U::Value>);

/// A directory that tasks may mount.
#[derive(Debug, Clone, DeriveDeserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct MountSaid {
    /// Absolute path, without symbolic links.
    pub(crate) source: Directory,
    /// `read-only`, or `read-write` with the rights of the task's uid.
    pub(crate) access: Access,
}

/// A place that has what a registry has.
#[derive(Debug, Clone, DeriveDeserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct MirrorSaid {
    /// The registry, `HOST` or `HOST:PORT`.
    pub(crate) registry: Host,
    /// The mirror, `HOST[:PORT][/PREFIX]`.
    pub(crate) at: Location,
}

/// What a name without a registry means.
#[derive(Debug, Clone)]
pub(crate) enum ShortNamesSaid {
    Deny,
    Try(Vec<Host>),
}

impl<T> Default for Key<T> {
    fn default() -> Self {
        Key(None)
    }
}

impl<U: Unit> Default for Limit<U> {
    fn default() -> Self {
        Limit { default: Key(None), most: Key(None) }
    }
}

// Not an `Option` for serde: it would take a key with nothing behind it as left out, and what is
// left out has the default. An admin who empties `allow:` does not mean everything.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Placed::deserialize(deserializer).map(|placed| Key(Some(placed)))
    }
}

/// Lets a [`Text`] be read from a file and be described in the schema.
macro_rules! text_in_files {
    ($($name:ident)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let expected = <$name as Text>::EXPECTED;
                deserializer.deserialize_str(TextVisitor { expected, read: <$name as Text>::read })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                <$name as Text>::schema()
            }
        }
    )*};
}

text_in_files!(
    Version Name ImagePattern Host Location Directory AbsoluteFile Uid Permit Offline
);

impl<'de, U: Unit> Deserialize<'de> for Amount<U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expected: U::EXPECTED,
            read: |text| match text {
                "none" => Ok(Amount(None)),
                _ => match U::parse(text) {
                    Ok(value) => Ok(Amount(Some(value))),
                    Err(error) => Err(error.to_string()),
                },
            },
        })
    }
}

impl<'de> Deserialize<'de> for ShortNamesSaid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ShortNamesSaid;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`deny` or a list of registries")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ShortNamesSaid, E> {
                match text {
                    "deny" => Ok(ShortNamesSaid::Deny),
                    _ => Err(E::custom(format!("`{text}` is not `deny` or a list of registries"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut hosts = Vec::new();
                while let Some(host) = list.next_element::<Host>()? {
                    if hosts.contains(&host) {
                        return Err(de::Error::custom(format!("`{}` is listed twice", host.0)));
                    }
                    hosts.push(host);
                }
                Ok(ShortNamesSaid::Try(hosts))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<T: JsonSchema> JsonSchema for Key<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<U: Unit> JsonSchema for Amount<U> {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = U::NUMBER.map(|number| json_schema!({"type": number, "exclusiveMinimum": 0}));
        let text = json_schema!({"type": "string", "pattern": U::PATTERN});
        let mut forms = vec![json_schema!({"const": "none"}), text];
        forms.extend(number);
        json_schema!({"anyOf": forms})
    }
}

impl JsonSchema for ShortNamesSaid {
    fn schema_name() -> Cow<'static, str> {
        "ShortNames".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hosts = Vec::<Host>::json_schema(generator);
        json_schema!({"anyOf": [{"const": "deny"}, hosts]})
    }
}
