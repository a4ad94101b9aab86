//! The headers of a message, as far as the host shows them.

use optimizer_core::host::Host;
use optimizer_core::plan::{Concern, Plan};

use crate::types::MapType;
use crate::{hostcalls, kong};

/// Most messages have no more.
const USUAL_HEADERS: usize = 32;

/// What the host shows: all of them at once, or some, asked for by name.
pub enum Shown {
    All(Vec<u8>),
    Few(Vec<(&'static [u8], Vec<u8>)>),
}

impl Shown {
    /// Asks for them; there are `count`.
    pub fn ask(host: Host, map: MapType, count: usize) -> Self {
        if count > host.capabilities().headers_at_once {
            Self::Few(kong::few_headers(map))
        } else {
            Self::All(hostcalls::header_map(map))
        }
    }

    /// Names and values.
    pub fn fields(&self) -> Vec<(&[u8], &[u8])> {
        match self {
            Self::All(map) => {
                let mut fields = Vec::with_capacity(USUAL_HEADERS);
                fields.extend(hostcalls::pairs(map));
                fields
            }
            Self::Few(few) => few.iter().map(|(name, value)| (*name, &**value)).collect(),
        }
    }

    /// What a request with these headers is to the plan.
    pub fn concern(&self, plan: &Plan) -> Concern {
        match self {
            Self::All(map) => plan.concern(hostcalls::pairs(map)),
            Self::Few(_) => plan.concern(self.fields()),
        }
    }
}
