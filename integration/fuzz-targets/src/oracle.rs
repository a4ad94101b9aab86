//! JSON by the book, slowly: a tree that `serde_json` makes, for comparison.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A value. Numbers are doubles, as in JavaScript.
#[derive(Clone, Debug)]
pub enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    /// In WTF-8: a lone surrogate stands for itself.
    String(Vec<u8>),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// The members of an object in their order, as texts.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    pairs.push((Cow::Owned(name), value));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Members).map(Pairs)
    }
}

/// A string's content.
struct Text(Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// How deep a tree may be: reading one is quadratic in its depth.
const MAX_DEPTH: usize = 32;

impl Tree {
    /// Reads a value; `None` where it is not JSON, too deep, or has a name that is no Unicode.
    pub fn read(text: &str) -> Option<Self> {
        Self::at(text, 0)
    }

    fn at(text: &str, depth: usize) -> Option<Self> {
        if depth > MAX_DEPTH {
            return None;
        }
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        let text = raw.get();
        Some(match text.as_bytes().first()? {
            b'{' => {
                let Pairs(pairs) = serde_json::from_str(text).ok()?;
                let read = |(name, raw): (Cow<'_, str>, &RawValue)| {
                    Some((name.into_owned(), Self::at(raw.get(), depth + 1)?))
                };
                Self::Object(pairs.into_iter().map(read).collect::<Option<_>>()?)
            }
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let read = |item: &RawValue| Self::at(item.get(), depth + 1);
                Self::Array(items.into_iter().map(read).collect::<Option<_>>()?)
            }
            b'"' => {
                let Text(text) = serde_json::from_str(text).ok()?;
                Self::String(text)
            }
            b't' | b'f' => Self::Bool(text == "true"),
            b'n' => Self::Null,
            _ => Self::Number(text.parse().ok()?),
        })
    }

    /// How many arrays and objects stand inside each other.
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Tree::depth).max().unwrap_or(0),
            Self::Object(members) => {
                1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Whether some object in it names a member twice.
    pub fn has_duplicates(&self) -> bool {
        match self {
            Self::Array(items) => items.iter().any(Tree::has_duplicates),
            Self::Object(members) => {
                let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
                names.sort_unstable();
                names.windows(2).any(|pair| pair[0] == pair[1])
                    || members.iter().any(|(_, value)| value.has_duplicates())
            }
            _ => false,
        }
    }

    /// Its text as another program would write it: members in the opposite order,
    /// white space everywhere, and every character of a string escaped.
    pub fn rewritten(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) if number.is_infinite() => format!("{}e999", number.signum()),
            Self::Number(number) => format!("{number:e}"),
            Self::String(text) => escaped(text),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(Tree::rewritten).collect();
                format!("[ {} ]", items.join(" , "))
            }
            Self::Object(members) => {
                let members: Vec<_> = members
                    .iter()
                    .rev()
                    .map(|(name, value)| {
                        format!("{} : {}", escaped(name.as_bytes()), value.rewritten())
                    })
                    .collect();
                format!("{{ {} }}", members.join(" , "))
            }
        }
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        /// Of two members with one name the later one counts.
        fn last(members: &[(String, Tree)]) -> Vec<(&str, &Tree)> {
            let mut sorted: Vec<(&str, &Tree)> =
                members.iter().map(|(name, value)| (&**name, value)).collect();
            sorted.reverse();
            sorted.sort_by_key(|(name, _)| *name);
            sorted.dedup_by_key(|(name, _)| *name);
            sorted
        }
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => last(a) == last(b),
            _ => false,
        }
    }
}

/// A string with every UTF-16 unit escaped.
fn escaped(mut text: &[u8]) -> String {
    let mut out = "\"".to_owned();
    while let [first, ..] = text {
        let (character, rest) = text.split_at(match first {
            0..0x80 => 1,
            0x80..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        });
        text = rest;
        match (std::str::from_utf8(character), character) {
            (Ok(character), _) => {
                character.encode_utf16().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            }
            (Err(_), [_, middle, last]) => {
                let unit = 0xd000 | u16::from(middle & 0x3f) << 6 | u16::from(last & 0x3f);
                out.push_str(&format!("\\u{unit:04X}"));
            }
            (Err(_), other) => panic!("{other:?} is no surrogate"),
        }
    }
    out + "\""
}
