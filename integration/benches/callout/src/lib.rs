//! A Proxy-Wasm filter of callouts and nothing else, built with the same SDK as the no-op one: a body
//! goes out, what comes back is the new body. No JSON, no metrics, no checks beyond the status: what
//! Lua does, as a Wasm filter. Configured with `both`, it does the same to answers.
// `proxy_wasm::main!` exports functions that it does not document.
#![allow(missing_docs)]

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { both: false }));
}}

const TIMEOUT: Duration = Duration::from_millis(800);

struct Root {
    both: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.both = self.get_plugin_configuration().is_some_and(|text| text == b"both");
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Callouts { both: self.both, asked: Message::Request }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

enum Message {
    Request,
    Response,
}

struct Callouts {
    both: bool,
    /// Which message the callout is about.
    asked: Message,
}

impl Callouts {
    /// Sends a whole body; the message waits if that went well.
    fn ask(&mut self, asked: Message, path: &str, body: Option<Vec<u8>>) -> Action {
        let headers = vec![
            (":method", "POST"),
            (":path", path),
            (":authority", "optimizer"),
            ("content-type", "application/json"),
        ];
        self.asked = asked;
        match self.dispatch_http_call("optimizer", headers, body.as_deref(), vec![], TIMEOUT) {
            Ok(_) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }
}

impl Context for Callouts {
    fn on_http_call_response(&mut self, _: u32, _: usize, size: usize, _: usize) {
        let is_ok = self.get_http_call_response_header(":status").is_some_and(|it| it == "200");
        let answer = self.get_http_call_response_body(0, size).filter(|_| is_ok);
        match self.asked {
            Message::Request => {
                if let Some(answer) = answer {
                    let length = answer.len().to_string();
                    self.set_http_request_header("content-length", Some(&length));
                    self.set_http_request_body(0, usize::MAX, &answer);
                }
                self.resume_http_request();
            }
            Message::Response => {
                if let Some(answer) = answer {
                    let length = answer.len().to_string();
                    self.set_http_response_header("content-length", Some(&length));
                    self.set_http_response_body(0, usize::MAX, &answer);
                }
                self.resume_http_response();
            }
        }
    }
}

impl HttpContext for Callouts {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if end { Action::Continue } else { Action::Pause }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_request_body(0, size);
        self.ask(Message::Request, "/raw/optimize", body)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        if self.both && !end { Action::Pause } else { Action::Continue }
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if !self.both {
            return Action::Continue;
        }
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_response_body(0, size);
        self.ask(Message::Response, "/raw/optimize-response", body)
    }
}
