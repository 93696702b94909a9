//! The artifact cache directory.
