//! Clients that behave in all the ways that a socket allows.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use super::super::OnEvent;
use super::super::text::PathText;
use super::*;

/// Answers `stop` when it is let go, everything else at once.
#[derive(Default)]
struct Slow {
    begun: Notify,
    go: Notify,
    given_up: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>, bool);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_add(usize::from(!self.1), Ordering::SeqCst);
    }
}

#[async_trait]
impl Control for Slow {
    async fn call(&self, request: Request, _: OnEvent<'_>) -> Result<Report, ControlError> {
        if request == Request::Stop {
            let mut under_way = UnderWay(Arc::clone(&self.given_up), false);
            self.begun.notify_one();
            self.go.notified().await;
            under_way.1 = true;
        }
        Ok(Report::Done)
    }

    async fn open(&self, _: &PathText, _: Option<&str>) -> Result<Opened, ControlError> {
        Err(ControlError::new(ErrorCode::NotFound, "nothing is here"))
    }
}

fn listen() -> (tempfile::TempDir, Arc<Slow>, ControlSocket, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let control = Arc::new(Slow::default());
    let socket = ControlSocket::bind(&path, Arc::clone(&control) as _).unwrap();
    (dir, control, socket, path)
}

const OK: &str = "{\"ok\":\"done\"}\n";

#[tokio::test]
async fn closing_the_sending_half_lost_the_answer() {
    let (_dir, control, _socket, path) = listen();
    // With and without a newline at the end: `echo` and `printf`.
    for asked in ["{\"op\":\"stop\"}\n", "{\"op\":\"peers\"}\n{\"op\":\"stop\"}"] {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(asked.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        control.begun.notified().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        control.go.notify_one();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers, OK.repeat(asked.matches("\"op\"").count()));
    }
    assert_eq!(control.given_up.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_has_gone_is_not_waited_for() {
    let (_dir, control, socket, path) = listen();
    for half_first in [false, true] {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"{\"op\":\"stop\"}\n").await.unwrap();
        control.begun.notified().await;
        if half_first {
            client.shutdown().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(client);
        let mut busy = socket.busy.subscribe();
        let idle = tokio::time::timeout(Duration::from_secs(10), busy.wait_for(|busy| *busy == 0)).await;
        assert!(idle.is_ok(), "the request goes on although nobody waits");
    }
    assert_eq!(control.given_up.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_line_without_an_end_is_refused_and_one_that_makes_no_sense_is_answered() {
    let (_dir, _control, _socket, path) = listen();
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"{\"op\":\"dance\"}\n{\"op\":\"peers\"}\n").await.unwrap();
    client.write_all(&vec![b'x'; MAX_LINE as usize]).await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 3, "{answers}");
    assert!(lines[0].contains("not a request") && lines[0].contains("invalid"), "{answers}");
    assert_eq!(lines[1], OK.trim_end());
    assert!(lines[2].contains("at most 1048576 bytes"), "{answers}");
}
