//! Floor 8: peer specs in, table generations out.
