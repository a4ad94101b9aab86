//! What a host can do. Decided once, when the configuration is compiled; at run
//! time nothing is tried that the host cannot do.

use crate::headers::Headers;

/// A host that the adapter runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Envoy, 1.35 or later, with `allow_on_headers_stop_iteration: true`.
    Envoy,
    /// Kong's Wasm runtime (ngx_wasm_module).
    Kong,
    /// A `wasi:http` host (wasmtime, Spin, wasmCloud), in front of one provider.
    WasiHttp,
}

impl Host {
    /// The host's name, as the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Host::Envoy => "envoy",
            Host::Kong => "kong",
            Host::WasiHttp => "wasi-http",
        }
    }

    /// What this host can do.
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Host::Envoy => Capabilities {
                replace_request: Replace::Held,
                shows_again: true,
                hold_response: true,
                let_go_any_time: true,
                total_timeout: true,
                shared_data: true,
                annotate: true,
                routes: true,
                limits_buffers: true,
                may_withhold_bodies: true,
                outlives_calls: true,
                properties: true,
                metrics_may_fail: false,
                background_callouts: 32,
                headers_at_once: usize::MAX,
                head_bytes: usize::MAX,
            },
            Host::Kong => Capabilities {
                replace_request: Replace::Early,
                shows_again: false,
                hold_response: false,
                let_go_any_time: false,
                total_timeout: false,
                shared_data: false,
                annotate: false,
                routes: true,
                limits_buffers: false,
                may_withhold_bodies: false,
                outlives_calls: true,
                properties: true,
                metrics_may_fail: true,
                background_callouts: 1,
                headers_at_once: 95,
                head_bytes: usize::MAX,
            },
            Host::WasiHttp => Capabilities {
                replace_request: Replace::Held,
                shows_again: false,
                hold_response: true,
                let_go_any_time: true,
                total_timeout: true,
                shared_data: false,
                annotate: true,
                routes: false,
                limits_buffers: false,
                may_withhold_bodies: false,
                outlives_calls: false,
                properties: false,
                metrics_may_fail: false,
                background_callouts: 32,
                headers_at_once: usize::MAX,
                head_bytes: 112 * 1024,
            },
        }
    }
}

/// What the core may ask of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Replace the body of a request that waited for the optimizer.
    pub replace_request: Replace,
    /// Show the body of a held request again, for as long as it is held.
    pub shows_again: bool,
    /// Hold a response's headers and body, call out, and then still change both.
    pub hold_response: bool,
    /// Let a held message go at any time. Without it a message that waits for a callout waits until that ends.
    pub let_go_any_time: bool,
    /// End a callout when its time-out is over. Without it the time-out holds for each step of
    /// it, and a slow answer can come later than that.
    pub total_timeout: bool,
    /// Data shared among the host's workers.
    pub shared_data: bool,
    /// Attach named values to the exchange for the access log.
    pub annotate: bool,
    /// Choose the provider for each call. Without it `provider` says which one all calls go to.
    pub routes: bool,
    /// Limit the bodies that it buffers to a size of its own (`limits.host_buffer_bytes`).
    pub limits_buffers: bool,
    /// Hold a request and keep its body to itself, where it is set up wrongly.
    pub may_withhold_bodies: bool,
    /// Keep a VM from call to call: what it remembers is of use to later ones.
    pub outlives_calls: bool,
    /// Know properties of a request beside its headers.
    pub properties: bool,
    /// Refuse a metric in such a way that the VM ends: better at start, then, than in the middle of a call.
    pub metrics_may_fail: bool,
    /// So many callouts that nobody waits for at a time. Where it is one, each leaves a little
    /// of the host's memory behind for good, its headers above all.
    pub background_callouts: usize,
    /// Show so many headers of a message at once. nginx asks for the room that the message's own take, then
    /// writes up to a hundred, its own (`:path` and three more) among them: with more it writes past it.
    pub headers_at_once: usize,
    /// Set headers of so many bytes: names, values, and 72 more for each. wasmtime ends an instance
    /// that sets more than 128 KiB, counted so; the rest is for what is added to those that go on.
    pub head_bytes: usize,
}

/// What a header takes beside its bytes.
const OF_EACH_HEADER: usize = 72;

impl Capabilities {
    /// Whether a message's headers can be set anew, to go on.
    pub fn carries(&self, headers: Headers<'_>) -> bool {
        let sizes =
            headers.iter().flat_map(|(name, value)| [name.len(), value.len(), OF_EACH_HEADER]);
        sizes.fold(0, usize::saturating_add) <= self.head_bytes
    }
}

/// Which requests' bodies a host can replace once the optimizer has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Any that it holds. `content-length` is the module's business.
    Held,
    /// Those that it showed with their headers, all but their first byte. The host corrects `content-length`.
    Early,
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn headers_are_carried_up_to_a_size_in_all() {
        let host = Host::WasiHttp.capabilities();
        let most = vec![b'x'; host.head_bytes - 2 * (OF_EACH_HEADER + 1) - 1];
        let fields: [(&[u8], &[u8]); 2] = [(b"a", &most), (b"b", b"x")];
        assert!(host.carries(Headers::new(&fields)) && host.carries(Headers::new(&fields[..1])));
        assert!(!host.carries(Headers::new(&[fields[0], (b"b", b"xx")])));
        assert!(!host.carries(Headers::new(&[fields[0], fields[1], (b"c", b"")])));
        for host in [Host::Envoy, Host::Kong].map(Host::capabilities) {
            assert!(host.carries(Headers::new(&[fields[0], fields[0]])));
        }
    }
}
