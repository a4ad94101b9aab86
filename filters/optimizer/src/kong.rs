//! What Kong's runtime does in its own way. Only what nginx answers without a trap, with
//! Kong around it or without, may be asked for here.

use optimizer_core::headers::Headers;
use proxy_wasm::types::MapType;

use crate::hostcalls;

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

/// Keeps a request header's value from the provider. nginx sends headers on that were removed,
/// and then even those that its configuration takes out (`proxy_set_header NAME ""`): so the value
/// is emptied. Of a header that came twice it would remove one: it stays, for the configuration.
pub fn empty_request_header(name: &str) {
    let map = hostcalls::header_map(MapType::HttpRequestHeaders);
    if !Headers::new(&hostcalls::pairs(&map)).repeats(name) {
        hostcalls::set_header(MapType::HttpRequestHeaders, name, "");
    }
}
