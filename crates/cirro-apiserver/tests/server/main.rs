//! The server as a whole, over a store in memory.

mod client;
