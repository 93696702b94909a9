//! The `steadfast` command. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast::cli::main()
}
