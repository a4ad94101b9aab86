//! Reading bodies through borrowed slices, one level at a time.
//!
//! Nothing here goes into values it was not asked for, so the depth of a body
//! does not matter.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Object;

/// The object that `json` is. None for anything else, and where two of its
/// members have the same name.
pub(super) fn object(json: &str) -> Option<Object<'_>> {
    Object::parse(json.as_bytes()).ok()
}

/// The elements of the array that `json` is; none for anything else.
pub(super) fn array(json: &str) -> impl Iterator<Item = &str> {
    let elements: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
    elements.into_iter().map(RawValue::get)
}

/// The text of a JSON string. None for anything else, also for a string that is
/// no Unicode text (a lone surrogate).
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let text: Option<Text<'_>> = serde_json::from_str(json).ok();
    text.map(|text| text.0)
}

/// The text of an object's member.
pub(super) fn text<'a>(object: &Object<'a>, name: &str) -> Option<Cow<'a, str>> {
    string(object.get(name)?)
}

/// Whether the object has the member, and has it not null.
pub(super) fn has(object: &Object<'_>, name: &str) -> bool {
    object.get(name).is_some_and(|value| value != "null")
}

/// Where `part` stands in `whole`, of which it is a slice.
pub(super) fn range(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}
