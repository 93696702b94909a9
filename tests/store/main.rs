//! Publishing to a real S3-compatible store, with a proxy before it that misbehaves. Built with `--features store-tests`; wants
//! `STEADFAST_TEST_VERSITYGW`, the path of a versitygw of 1.8 or newer.

#[path = "../support/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "../support/gateway.rs"]
mod gateway;

mod conditions;
mod dist;
mod faults;
mod objects;
mod proxy;
mod public;
mod race;
mod signed;
