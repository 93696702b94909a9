//! The program with real commands: each test starts sessions in a directory of its own.

mod harness;
mod input;
mod life;
mod output;
mod terminal;
mod watch;
