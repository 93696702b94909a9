//! Commands in containers, and logs.

use steadfast::backend::{Engine, ExecRequest, LogRequest};
use steadfast::model::Phase;
use tokio::io::AsyncWriteExt;

use crate::bench::{Bench, Output, output, within};

fn shell(line: &str) -> ExecRequest {
    ExecRequest { command: vec!["sh".into(), "-c".into(), line.into()], ..ExecRequest::default() }
}

pub async fn a_commands_streams_and_code_are_kept_apart<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let exec = bench.engine.exec(&id, &shell("printf 'o\\377ut\\n'; echo err >&2; exit 42")).await.unwrap();
    let (session, seen) = (exec.id.clone(), output(exec).await);
    assert_eq!(seen, Output { stdout: b"o\xffut\n".to_vec(), stderr: b"err\n".to_vec() });
    assert_eq!(bench.engine.exec_exit(&session).await.unwrap(), 42);
}

pub async fn standard_input_is_half_closed<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let request = ExecRequest { stdin: true, ..shell("cat; echo after the end") };
    let mut exec = bench.engine.exec(&id, &request).await.unwrap();
    let mut stdin = exec.stdin.take().expect("standard input");
    stdin.write_all(b"line\n").await.unwrap();
    stdin.write_all(&[b'x'; 200_000]).await.unwrap();
    stdin.shutdown().await.unwrap();
    let session = exec.id.clone();
    let seen = output(exec).await;
    assert_eq!(seen.stdout.len(), "line\n".len() + 200_000 + "after the end\n".len());
    assert!(seen.stdout.ends_with(b"xafter the end\n"));
    assert_eq!(bench.engine.exec_exit(&session).await.unwrap(), 0);
}

pub async fn a_commands_environment_and_directory<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let mut request = shell("pwd; echo \"$A\"; echo \"$BUILT\"");
    request.env = vec!["A=b c=d".into()];
    request.workdir = Some("/www".into());
    let (stdout, _) = output(bench.engine.exec(&id, &request).await.unwrap()).await.text();
    assert_eq!(stdout, "/www\nb c=d\nyes\n");
}

pub async fn a_command_that_is_not_there<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let request = ExecRequest { command: vec!["no-such-program".into()], ..ExecRequest::default() };
    // Podman 4.3 starts the session and says so on standard error; newer ones refuse the start.
    match bench.engine.exec(&id, &request).await {
        Err(err) => assert!(err.message.contains("no-such-program"), "{err}"),
        Ok(exec) => {
            let session = exec.id.clone();
            let (_, stderr) = output(exec).await.text();
            assert!(stderr.contains("no-such-program"), "{stderr}");
            assert!([126, 127].contains(&bench.engine.exec_exit(&session).await.unwrap()));
        }
    }
}

pub async fn much_output_arrives_whole<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let exec = bench.engine.exec(&id, &shell("head -c 5000000 /dev/zero; head -c 70000 /dev/zero >&2")).await.unwrap();
    let seen = output(exec).await;
    assert_eq!((seen.stdout.len(), seen.stderr.len()), (5_000_000, 70_000));
}

pub async fn logs_keep_streams_and_bytes<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "printf 'o\\377ut\\r\\n'; echo err >&2")).await;
    bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
    let seen = within(Output::of(bench.engine.logs(&id, &LogRequest::default()).await.unwrap())).await;
    assert_eq!(seen, Output { stdout: b"o\xffut\r\n".to_vec(), stderr: b"err\n".to_vec() });
}

pub async fn a_tail_is_the_last_lines<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "for i in 1 2 3 4 5; do echo $i; done")).await;
    bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
    for (tail, wanted) in [(Some(2), "4\n5\n"), (Some(0), ""), (Some(99), "1\n2\n3\n4\n5\n"), (None, "1\n2\n3\n4\n5\n")]
    {
        let request = LogRequest { follow: false, tail };
        let (stdout, _) = within(Output::of(bench.engine.logs(&id, &request).await.unwrap())).await.text();
        assert_eq!(stdout, wanted, "tail {tail:?}");
    }
}

pub async fn a_followed_log_ends_with_its_container<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "echo first; sleep 1; echo last >&2; exit 1")).await;
    let request = LogRequest { follow: true, tail: None };
    let seen = within(Output::of(bench.engine.logs(&id, &request).await.unwrap())).await;
    assert_eq!(seen.text(), ("first\n".to_owned(), "last\n".to_owned()));
}
