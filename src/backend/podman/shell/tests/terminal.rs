//! A command on a terminal, with a stand-in for limactl that runs the guest's words itself.

use futures_util::StreamExt;

use super::{Fake, id};
use crate::backend::{Chunk, EngineErrorKind, Exec, ExecRequest, TermSize};

#[tokio::test]
async fn a_command_on_a_terminal_ends_by_the_guests_word_alone() {
    // As ssh has it: the words of the guest's shell are one line, and run on the terminal.
    let runs = "for word; do line=$word; done; podman() { case $1 in container) echo true ;; *) COMMAND ;; esac; }; eval \"$line\"";
    let begin = async |command: &str, env: &[&str]| {
        let fake = Fake::new(&runs.replace("COMMAND", command), false);
        let request = ExecRequest {
            command: vec!["x".into()],
            env: env.iter().map(|line| (*line).to_owned()).collect(),
            stdin: true,
            tty: Some(TermSize { cols: 77, rows: 11 }),
            ..ExecRequest::default()
        };
        let exec = fake.shell.exec(&id(), &request).await;
        (fake, exec)
    };
    let all = async |exec: Exec| {
        let chunks: Vec<_> = exec.output.collect().await;
        let text = |chunk| match chunk {
            Ok(Chunk::Stdout(bytes)) => Ok(String::from_utf8(bytes.into()).unwrap()),
            Ok(Chunk::Stderr(bytes)) => panic!("{bytes:?}"),
            Err(err) => Err(err),
        };
        chunks.into_iter().map(text).collect::<Result<Vec<_>, _>>().map(|texts| texts.concat())
    };
    for code in [0, 7, 255] {
        let (fake, exec) = begin(&format!("stty size <&1; (exit {code})"), &["A=canary"]).await;
        let exec = exec.unwrap();
        let session = exec.id.clone();
        assert_eq!(all(exec).await.unwrap(), "11 77\n", "nothing is echoed, and nothing of ours is passed on");
        assert_eq!(fake.shell.exec_exit(&session).await.unwrap(), code);
        fake.shell.exec_resize(&session, TermSize::default()).await.expect_err("it has ended");
    }
    for (lost, why) in [
        ("echo half; exit 255", "(ssh ended with exit code 255)"),
        ("echo half; exit 0", "(ssh ended with exit code 0)"),
        ("echo half; echo 'closed by remote host' >&2; exit 255", "(closed by remote host)"),
        ("echo half; kill -9 $$", "(limactl was ended by a signal)"),
    ] {
        let (_fake, exec) = begin(lost, &[]).await;
        let err = all(exec.unwrap()).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::TransportUnavailable, "{err}");
        assert_eq!(
            err.message,
            format!("failed to run a command in container `abc`: the connection to instance `agents` broke {why}")
        );
    }
    // A guest that never says that the script may come gets none of it.
    for (greeting, why) in
        [("exit 3", "it ended with exit code 3"), ("exec head -c 100000 /dev/zero", "it prints without an end")]
    {
        let fake = Fake::new(greeting, false);
        let request = ExecRequest { command: vec!["x".into()], tty: Some(TermSize::default()), ..Default::default() };
        let err = fake.shell.exec(&id(), &request).await.unwrap_err();
        assert!(err.message.contains(why), "{err}");
    }
}
