//! How much linear memory the module needs: bounded by the bodies, whatever goes wrong.

mod bounds;
mod calls;
mod steady;
