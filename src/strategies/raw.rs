//! Reading JSON through borrowed slices, one level at a time.
//!
//! Nothing here recurses into values it was not asked for, so the depth of a
//! body does not matter.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of an object that `T` names. None for anything but an object,
/// and where one of them stands there twice.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    // A derived reader would take an array as well, member by position.
    if !json.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// The elements of an array; none for anything else.
pub(super) fn array<'a>(value: &'a RawValue) -> impl Iterator<Item = &'a RawValue> {
    serde_json::from_str::<Vec<&'a RawValue>>(value.get())
        .unwrap_or_default()
        .into_iter()
}

/// The text of a JSON string. None for anything else, also for a string that is
/// no Unicode text (a lone surrogate).
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let text: Option<Text<'_>> = serde_json::from_str(json).ok();
    text.map(|text| text.0)
}

/// Where `part` stands in `whole`, of which it is a slice.
pub(super) fn range(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// Tells a member that is `null` from one that is absent, which a plain
/// `Option` does not.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}
