//! Sessions in a terminal.

use steadfast_keeper::frame::{self, Kind};
use steadfast_keeper::message::{Size, Status};

use crate::harness::{Base, Client, Seen, shell, writer};

fn contains(seen: &Seen, text: &str) -> bool {
    String::from_utf8_lossy(&seen.stdout).contains(text)
}

#[test]
fn a_terminal_has_a_size_echoes_and_interrupts() {
    let base = Base::new();
    let mut tty =
        shell("tty", "trap 'echo interrupted' INT; trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done");
    tty.tty = Some(Size { cols: 80, rows: 24 });
    base.start(&tty).unwrap();
    let mut client = Client::connect(base.path(), "tty");
    let mut attach = writer("w");
    client.attach(&attach);
    let mut seen = Seen::default();
    client.see(&mut seen, |_, seen| contains(seen, "24 80\r\n"));
    client.say(&frame::message(Kind::Resize, &Size { cols: 100, rows: 30 }));
    client.see(&mut seen, |_, seen| contains(seen, "30 100\r\n"));
    client.write(0, b"typed");
    client.see(&mut seen, |_, seen| contains(seen, "typed"));
    client.write(5, &[3]);
    client.see(&mut seen, |_, seen| contains(seen, "interrupted"));
    // The newest writer's size wins.
    let mut other = Client::connect(base.path(), "tty");
    let newest = attach.writer.as_mut().unwrap();
    (newest.id, newest.takeover, newest.size) = ("x".into(), true, Some(Size { cols: 60, rows: 20 }));
    other.attach(&attach);
    let mut seen = Seen::default();
    other.see(&mut seen, |_, seen| contains(seen, "20 60\r\n"));
    assert_eq!(Client::connect(base.path(), "tty").stop(9, 0).status, Status::Exited);
}

#[test]
fn the_end_of_input_is_a_character() {
    let base = Base::new();
    let mut tty = shell("tty", "cat; echo done");
    tty.tty = Some(Size { cols: 80, rows: 24 });
    base.start(&tty).unwrap();
    Client::connect(base.path(), "tty").send("a", b"line\n", true, 5000).unwrap();
    let ended = base.wait_for("tty", "it has ended", |state| state.status == Status::Exited);
    assert_eq!(ended.exit.unwrap().code, Some(0));
    assert_eq!(String::from_utf8_lossy(&crate::harness::printed(&base, "tty").stdout), "line\r\nline\r\ndone\r\n");
}
