//! What the programs of the benchmark share: the messages they exchange and the
//! least HTTP/1.1 that is correct, so that neither is what is measured.

pub mod arguments;
pub mod http1;
pub mod native;
pub mod optimizer;
pub mod samples;
