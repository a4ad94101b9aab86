//! Reads a configuration's types from JSON, and says of what is wrong where it stands.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::ConfigError;
use crate::json::{self, JsonError, Kind, Member, Object};

/// One value, valid JSON.
pub(super) struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a str) -> Self {
        Self(value)
    }

    fn string(&self) -> Option<String> {
        serde_json::from_str(self.0).ok()
    }

    fn wrong(&self, expected: &dyn Expected) -> ConfigError {
        let string = self.string();
        de::Error::invalid_type(
            match json::kind(self.0) {
                Kind::Null => Unexpected::Unit,
                Kind::Bool => Unexpected::Bool(self.0 == "true"),
                Kind::String => Unexpected::Str(string.as_deref().unwrap_or_default()),
                Kind::Number => Unexpected::Other(self.0),
                Kind::Array => Unexpected::Seq,
                Kind::Object => Unexpected::Map,
            },
            expected,
        )
    }
}

/// Each type asks for what it is made of, and gets that or an error: what cannot
/// be asked for costs no code.
impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        Err(self.wrong(&visitor))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.0 {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.string() {
            Some(text) => visitor.visit_string(text),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.0 {
            "null" => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match json::items(self.0) {
            Some(items) => visitor.visit_seq(Items(items.into_iter().enumerate())),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match Object::parse(self.0.as_bytes()) {
            Ok(object) => visitor.visit_map(Members { rest: object.members().iter(), value: None }),
            Err(JsonError::DuplicateMember) => Err(ConfigError::new("", "names one member twice")),
            Err(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        match self.string() {
            Some(text) => visitor.visit_enum(StrDeserializer::new(&text)),
            None => Err(self.wrong(&visitor)),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 f32 f64 char str bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::iter::Enumerate<std::vec::IntoIter<&'a str>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ConfigError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConfigError> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        let item = seed.deserialize(Reader(item));
        item.map(Some).map_err(|error| error.within(&format!("[{index}]")))
    }
}

struct Members<'o, 'a> {
    rest: std::slice::Iter<'o, Member<'a>>,
    value: Option<&'o Member<'a>>,
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConfigError> {
        self.value = self.rest.next();
        let Some(member) = self.value else { return Ok(None) };
        let key = seed.deserialize(StrDeserializer::new(&member.name));
        key.map(Some).map_err(|error: ConfigError| error.within(&member.name))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, ConfigError> {
        let Some(member) = self.value.take() else {
            return Err(de::Error::custom("a value without a name"));
        };
        seed.deserialize(Reader(member.value)).map_err(|error| error.within(&member.name))
    }
}

impl ConfigError {
    /// The same error, seen from the object or array that holds the value.
    fn within(self, name: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self::new([name, separator, &self.path].concat(), self.message)
    }
}

impl de::Error for ConfigError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("", message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let got = match unexpected {
            Unexpected::Bool(value) => format!("boolean `{value}`"),
            Unexpected::Str(value) => format!("{value:?}"),
            Unexpected::Other(value) => value.to_owned(),
            Unexpected::Unit => "null".to_owned(),
            Unexpected::Seq => "an array".to_owned(),
            Unexpected::Map => "an object".to_owned(),
            _ => "something else".to_owned(),
        };
        Self::new("", format!("expected {expected}, got {got}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, "required, but missing")
    }
}
