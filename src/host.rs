//! What a host can do. Decided once, when the configuration is compiled; at run
//! time nothing is tried that the host cannot do.

/// A proxy that the module runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Envoy, 1.35 or later, with `allow_on_headers_stop_iteration: true`.
    Envoy,
    /// Kong's Wasm runtime (ngx_wasm_module).
    Kong,
}

impl Host {
    /// The host's name, as the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Host::Envoy => "envoy",
            Host::Kong => "kong",
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
            },
            Host::Kong => Capabilities {
                hold_request: false,
                hold_response: false,
                shared_data: false,
                annotate: false,
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
}
