//! What a host can do. Decided once, when the configuration is compiled; at run
//! time nothing is tried that the host cannot do.

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
                hold_request: true,
                hold_response: true,
                shared_data: true,
                annotate: true,
                routes: true,
                limits_buffers: true,
                may_withhold_bodies: true,
                outlives_calls: true,
                properties: true,
            },
            Host::Kong => Capabilities {
                hold_request: false,
                hold_response: false,
                shared_data: false,
                annotate: false,
                routes: true,
                limits_buffers: true,
                may_withhold_bodies: false,
                outlives_calls: true,
                properties: true,
            },
            Host::WasiHttp => Capabilities {
                hold_request: true,
                hold_response: true,
                shared_data: false,
                annotate: true,
                routes: false,
                limits_buffers: false,
                may_withhold_bodies: false,
                outlives_calls: false,
                properties: false,
            },
        }
    }
}

/// What the core may ask of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Hold a request's headers and body, call out, and then still change both.
    pub hold_request: bool,
    /// The same for the response.
    pub hold_response: bool,
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
}
