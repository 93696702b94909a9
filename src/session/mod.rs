//! Guest sessions: long-lived commands in an agent, which a keeper there keeps (the crate `steadfast-keeper`).
//!
//! The keeper is a static program that is put into the container when it is first wanted ([`Keeper`]); whatever is asked of a
//! session goes through a command of Podman's that runs it, over whichever transport reaches Podman. Nothing of a session is kept
//! here: its command, its input and its output are the keeper's, and survive us, Podman's service and the connection.

mod attach;
mod error;
mod keeper;
mod last;
mod link;
mod pool;
mod talk;
mod watch;

pub use attach::{AttachOptions, Event, Input, Left, WriteOptions};
pub use error::{SessionError, words_of};
pub use keeper::Keeper;
pub use link::{Link, LinkReader, LinkWriter};
pub use pool::Pool;
pub use steadfast_keeper::{frame, message, tree};
pub use talk::{FIRST_SIZE, SEND_LIMIT, SendOptions, is_session_name};
pub use watch::Watch;
