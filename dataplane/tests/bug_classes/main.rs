//! One regression test for each class of security bugs that WireGuard implementations have had.
//! Each says what went wrong, where, and what excludes it here; it must fail when that is undone.
//!
//! Nodes are made of the library's pure floors; time is the test's own.

mod authentication;
mod flooding;
mod keys;
mod lifetime;
mod node;
mod packets;
