//! The runtime that everything runs in, made so that a machine which refuses threads or files is told as that. tokio panics
//! then, or waits for ever for what it has begun.

use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::{CliError, ExitStatus, Settings};

use crate::mutex::guard;

/// Threads for work that blocks, made at once: while there is one, tokio keeps work that it gets no thread for until one is free,
/// and without any it panics. A few, since some work waits for a reader that may never go.
const BLOCKING_THREADS: usize = 4;

/// What is idle is kept: the next one may be refused.
const KEEP_ALIVE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Makes the runtime, or says why there is none: the exit code.
pub(super) fn start(settings: &Settings) -> Result<Runtime, ExitCode> {
    let usual = panic::take_hook();
    let color = settings.color_stderr;
    // Ended from here, since what unwinds waits for the threads that there are already.
    panic::set_hook(Box::new(move |panic| {
        super::render::errors::print(&refused(&said_by(panic)), color);
        std::process::exit(ExitStatus::Error as i32);
    }));
    let built = Builder::new_multi_thread().worker_threads(2).thread_keep_alive(KEEP_ALIVE).enable_all().build();
    if let Ok(runtime) = &built {
        make_blocking_threads(runtime);
    }
    panic::set_hook(usual);
    built.map_err(|err| settings.fail(&refused(&err.to_string())))
}

fn make_blocking_threads(runtime: &Runtime) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    for _ in 0..BLOCKING_THREADS {
        let gate = Arc::clone(&gate);
        // Each needs a thread while those before it wait.
        runtime.spawn_blocking(move || {
            let (is_open, opens) = &*gate;
            let waiting = guard(is_open);
            drop(opens.wait_while(waiting, |is_open| !*is_open));
        });
    }
    let (is_open, opens) = &*gate;
    *guard(is_open) = true;
    opens.notify_all();
}

fn said_by(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

fn refused(why: &str) -> CliError {
    CliError::new(ExitStatus::Error, format!("cannot start: the machine refuses threads or files: {why}"))
        .hint("`ulimit -u` and `ulimit -n` tell how many threads and open files there may be; a service has limits of its own")
}
