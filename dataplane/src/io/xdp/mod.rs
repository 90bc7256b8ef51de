//! AF_XDP: the XDP program that steers datagrams into rings, and the rings.

pub mod program;
