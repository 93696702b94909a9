//! Keeps a long-lived command in a container: its input, its output, its end.
//!
//! A **keeper** is one process beside one command. It owns the command's process group, feeds its standard input, appends what
//! it prints to a bounded log, restarts it by its policy and tells how it ended. Whoever wants something of it connects to a
//! socket in the session's directory and speaks frames ([`frame`]) that hold the messages of [`message`]. Nothing of the
//! session depends on who started it: that process, its connection and its machine may go away.
//!
//! ```text
//! BASE/keeper-<digest>           this program
//! BASE/sessions/<name>/sock      who connects here speaks to the keeper
//!                      state     what it last said of itself (JSON), for when it is gone
//!                      lock      locked for as long as the keeper lives
//!                      log.<n>   what the command printed, from byte n of the log on
//!                      spool.<n> input that waits for the command
//! ```
//!
//! Who watches all of them ([`watch`]) is told at once when one comes or goes, ends, is started again, or loses its keeper.
//!
//! Beside that it tells how a source tree in the container is, and changes it step by step ([`tree`]).
//!
//! The program uses no asynchronous runtime, polls nothing, and has no unsafe code beside what `rustix` hides. It needs nothing
//! of the image: no shell, no C library, no `/tmp`.

pub mod child;
pub mod connect;
pub mod frame;
pub mod input;
pub mod keep;
pub mod list;
pub mod log;
pub mod message;
pub mod proc;
pub mod start;
pub mod tree;
pub mod watch;
