//! Processes that end right after they sent.

use std::io::ErrorKind;
use std::time::Duration;

use crate::process::{LONG, endpoint, verify};
use crate::{bounded, start};

/// `close().await` resolved, and the process ended in the next moment: nothing is lost. Every time.
#[test]
fn nothing_is_lost_by_a_process_that_closed() {
    const MESSAGES: u64 = 50;
    bounded(async {
        let server = start(format_args!("serve 127.0.0.1 0 {}", LONG.as_millis()));
        let to = server.hear_address();
        for key in 0..100 {
            let client = start(format_args!("send {to} {key} 20000 {MESSAGES} close"));
            assert_eq!(client.hear(), "closed");
            assert!(client.wait().success());
            assert_eq!(server.hear(), format!("sunk {key} {MESSAGES}"));
        }
    });
}

/// `send` resolved, and the process was gone without `close`: what its engine had not sent is lost, perhaps everything,
/// and the peer is told so by an error. What arrives is the beginning of what was sent; it never looks complete.
#[test]
fn a_process_that_only_sent_may_lose_the_end_and_the_peer_knows() {
    const KEY: u64 = 7;
    const MAX: usize = 20_000;
    const MESSAGES: u64 = 50;
    bounded(async {
        let near = endpoint(Duration::from_millis(500));
        let mut listener = near.listen(0).await.unwrap();
        let to = listener.local_addr();
        for _ in 0..5 {
            let client = start(format_args!("send {to} {KEY} {MAX} {MESSAGES} exit"));
            let (mut flow, _) = listener.accept().await.unwrap();
            assert!(client.wait().success());
            // The request, and then the messages.
            let mut received = 0;
            let error = loop {
                match flow.recv().await {
                    Ok(Some(_)) if received == 0 => {}
                    Ok(Some(message)) => verify(KEY, received - 1, MAX, message.as_slice()).unwrap(),
                    Ok(None) => panic!("it looks complete after {received} messages"),
                    Err(error) => break error,
                }
                received += 1;
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(received <= 1 + MESSAGES);
        }
    });
}
