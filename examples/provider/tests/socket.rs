//! The program as it is started: over a socket, from the first line to the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Provider {
    child: Child,
    address: String,
}

impl Provider {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_demo-provider"))
            .args(["--listen", "127.0.0.1:0", "--chunk-ms", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const KEY: &str = "authorization: Bearer sk-demo\r\n";
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello there"}]}"#;

#[test]
fn answers_whole_and_streamed_and_shows_what_came() {
    let provider = Provider::start();
    let whole = provider.ask("POST", "/prefix/v1/chat/completions", KEY, CHAT);
    assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole}");
    assert!(whole.contains("You said 2 words"), "{whole}");
    assert_eq!(whole, provider.ask("POST", "/prefix/v1/chat/completions", KEY, CHAT));

    let body = CHAT.replacen('{', r#"{"stream":true,"#, 1);
    let streamed = provider.ask("POST", "/v1/messages", "x-api-key: sk-demo\r\n", &body);
    assert!(streamed.contains("content-type: text/event-stream"), "{streamed}");
    assert!(streamed.contains("event: message_stop\n"), "{streamed}");

    let calls = provider.ask("GET", "/demo/calls", "", "");
    assert!(calls.contains(r#""count":3"#), "{calls}");
    assert!(calls.contains(&format!(r#""body":{body}"#)), "{calls}");
    assert!(provider.ask("POST", "/demo/reset", "", "").starts_with("HTTP/1.1 204"));
    assert!(provider.ask("GET", "/demo/calls", "", "").contains(r#"{"count":0,"last":null}"#));
}

#[test]
fn refuses_as_a_provider_does() {
    let provider = Provider::start();
    for headers in ["", "authorization: Bearer bad-key\r\n", "x-api-key: bad\r\n"] {
        let answer = provider.ask("POST", "/v1/chat/completions", headers, CHAT);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("invalid_api_key"), "{answer}");
    }
    let answer = provider.ask("POST", "/v1/messages", KEY, r#"{"model":"m","messages":null}"#);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(provider.ask("POST", "/v1/models", KEY, "{}").starts_with("HTTP/1.1 404 "));
}

#[test]
fn stops_when_told_to() {
    let mut provider = Provider::start();
    let told = Command::new("kill").arg(provider.child.id().to_string()).status().unwrap();
    assert!(told.success());
    assert!(provider.child.wait().unwrap().success());
}
