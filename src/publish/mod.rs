//! The publisher's side: from a bundle to tarballs, a manifest and an object store, and back.
//!
//! ```text
//!  bundle ──tarball──▶ dist directory ──manifest──▶ manifest.json ──push──▶ object store ──fetch──▶ the cache of `apply`
//!            Podman     images/*.tar.gz + .sha256     (or a slice of it)      the manifest last
//! ```
//!
//! Beside that: `smoke` tries a tarball, `registry` pushes images to where engines pull, and `export` writes one archive for an
//! air gap, which [`crate::backend::cache::import`] takes in.
//!
//! A manifest never names what is not there: [`manifest`] is made from what lies in the dist directory alone. It is read by
//! the same [`crate::model::Manifest`] that the fetcher reads it with.

pub(crate) mod archive;
pub mod bundle;
pub mod dist;
pub(crate) mod export;
pub mod key;
pub(crate) mod loaded;
pub mod manifest;
pub mod members;
pub mod packing;
pub(crate) mod place;
pub mod push;
pub(crate) mod registry;
pub(crate) mod smoke;
pub mod store;
pub(crate) mod tarball;
