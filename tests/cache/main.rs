//! The artifact cache against a real server on loopback that misbehaves to order, and on real file systems.

mod delta;
mod fetch;
mod keep;
mod manifest;
mod processes;
mod server;
mod signed;
mod unpack;
mod world;
