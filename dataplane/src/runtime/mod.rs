//! Floor 7: threads, event loops, choice of drivers, start and stop.
