//! Interoperability with other implementations.

fn main() {}
