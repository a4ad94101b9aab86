//! What Kong's runtime says of a call. Only what nginx answers without a trap, with
//! Kong around it or without, may be asked for here.

use optimizer_core::headers::Headers;

use crate::hostcalls;

/// What stands for the provider that a call is routed to: Kong's service; on a plain nginx, where
/// nothing of the route can be read so early, all that it can have been chosen by.
pub fn upstream(headers: Headers<'_>) -> Vec<u8> {
    hostcalls::property(&["kong", "service_id"]).unwrap_or_else(|_| {
        let path = headers.get(":path").unwrap_or_default();
        let path = path.split(|&byte| byte == b'?').next().unwrap_or_default();
        let host = headers.get("host").unwrap_or_default();
        [headers.get(":authority").unwrap_or_default(), host, path].join(&b' ')
    })
}

/// Whether the provider gave the answer: its last status is the answer's. Not so where nginx,
/// or Lua in it, answered in its place.
pub fn is_from_provider(headers: Headers<'_>) -> bool {
    let statuses = hostcalls::property(&["ngx", "upstream_status"]).unwrap_or_default();
    let last = statuses.rsplit(|byte| b" ,:".contains(byte)).next();
    last.is_some_and(|last| !last.is_empty() && headers.get(":status") == Some(last))
}
