//! A tree of path segments that finds the most specific pattern.
