//! An agent that speaks JSON lines: for each line that comes in, one goes out, with a number that tells whether it is the same one
//! still. A line with `"crash"` in it makes it fail.

use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, r#"{{"type":"ready","pid":{}}}"#, std::process::id())?;
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        let line = line?;
        if line.contains("\"crash\"") {
            eprintln!("crashing, as I was told");
            std::process::exit(1);
        }
        writeln!(out, r#"{{"type":"heard","number":{number},"line":{line}}}"#)?;
        out.flush()?;
    }
    writeln!(out, r#"{{"type":"bye"}}"#)
}
