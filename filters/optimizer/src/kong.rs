//! What Kong's runtime does in its own way. Only what nginx answers without a trap, with
//! Kong around it or without, may be asked for here.

use optimizer_core::headers::Headers;

use crate::types::{BufferType, MapType};
use crate::{allocator, hostcalls};

/// Kong's name for the provider that a call is routed to: its service. A plain nginx has none.
pub fn upstream() -> Option<Vec<u8>> {
    hostcalls::property(&["kong", "service_id"]).ok()
}

/// Whether the provider gave the answer: its last status is the answer's. Not so where nginx,
/// or Lua in it, answered in its place.
pub fn is_from_provider(headers: Headers<'_>) -> bool {
    let statuses = hostcalls::property(&["ngx", "upstream_status"]).unwrap_or_default();
    let last = statuses.rsplit(|byte| b" ,:".contains(byte)).next();
    last.is_some_and(|last| !last.is_empty() && headers.get(":status") == Some(last))
}

/// What tells of a message with too many headers whether it is one of ours, asked for one by one.
pub fn few_headers(map: MapType) -> Vec<(&'static [u8], Vec<u8>)> {
    let names: &[&str] = match map {
        MapType::HttpRequestHeaders => &[":path", ":method", "content-type"],
        _ => &[":status"],
    };
    let told = |name: &&'static str| Some((name.as_bytes(), hostcalls::header(map, name)?));
    names.iter().filter_map(told).collect()
}

/// Keeps a request header's value from the provider. nginx sends headers on that were removed,
/// and then even those that its configuration takes out (`proxy_set_header NAME ""`): so the value
/// is emptied. Of a header that came twice it would remove one: it stays, for the configuration.
pub fn empty_request_header(name: &str) {
    let map = hostcalls::header_map(MapType::HttpRequestHeaders);
    let fields: Vec<_> = hostcalls::pairs(&map).collect();
    if !Headers::new(&fields).repeats(name) {
        hostcalls::set_header(MapType::HttpRequestHeaders, name, "");
    }
}

/// Whether nginx has the request's body, of `size` bytes, in one buffer, as it does where Lua set it.
///
/// Asked for one byte, nginx writes one of each buffer, one after the other. Two buffers of which the
/// first is of a single byte look like one: nothing but Lua that sets bodies rules that out.
pub fn has_body_in_one_buffer(size: usize) -> bool {
    /// In no UTF-8.
    const UNTOUCHED: u8 = 0xff;
    let mut place = vec![UNTOUCHED; size.max(1)];
    let shown = allocator::placing_one_byte(&mut place, || {
        hostcalls::touch_buffer(BufferType::HttpRequestBody)
    });
    let written = place.iter().take_while(|&&byte| byte != UNTOUCHED).count();
    shown && written == 1
}

/// Lays the request's body, which stays what it is, into buffers of the runtime's own, all but its
/// first byte. Before any callout only.
///
/// Whatever is written frees the list entries of the buffers behind it, empty ones too, into a list
/// that outlives the request, and the next call on the connection crashes. Before a callout each
/// write takes one entry from that list again: a few writes more than there can be entries.
pub fn take_request_body(body: &[u8]) {
    const MORE: usize = 3;
    let rest = body.get(1..).unwrap_or_default();
    let (bulk, last) =
        rest.split_at_checked(rest.len().saturating_sub(MORE)).unwrap_or((rest, &[]));
    let mut end: usize = 1;
    for bytes in std::iter::once(bulk).chain(last.chunks(1)).filter(|bytes| !bytes.is_empty()) {
        hostcalls::replace_buffer(BufferType::HttpRequestBody, end, bytes);
        end = end.saturating_add(bytes.len());
    }
}

/// Replaces all of the request's body but its first byte, after [`take_request_body`].
///
/// In one piece: after a callout the buffers that nginx takes for several all lie in the same
/// place, and they would overwrite each other.
pub fn replace_request_body(rest: &[u8]) {
    hostcalls::replace_buffer(BufferType::HttpRequestBody, 1, rest);
}
