//! What threads share without locks, compiled with loom's atomics, and run through all interleavings of a few threads: the runtime's
//! queue, and the lanes of the kernels' pool.
//!
//! Capacities are tiny, because that is where positions wrap and queues are full, and because loom tries everything.

#![cfg(test)]

#[path = "../../runtime/queue/bell.rs"]
#[allow(dead_code, reason = "the whole file is compiled, and parts of it are run")]
mod bell;
mod pool;
#[path = "../../runtime/queue/ring.rs"]
#[allow(dead_code, reason = "as above")]
mod ring;
mod sync;
mod tests;
