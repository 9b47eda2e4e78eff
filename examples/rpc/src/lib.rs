//! Examples of Machnet under RPC frameworks; see `examples/`.
