//! A browser without a screen: chromium, by chromedriver's HTTP (W3C WebDriver).

use crate::daemon::wait_until;
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// One window of one.
pub(super) struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    // What it leaves behind goes with it.
    _directory: TempDir,
}

impl Browser {
    /// Starts one, where it is installed.
    pub(super) fn start() -> Option<Self> {
        if which::which("chromedriver").is_err() || which::which("chromium").is_err() {
            crate::daemon::cannot_run("chromium and chromium-driver are not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let [port] = crate::streams::free_ports();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("TMPDIR", directory.path())
            .env("HOME", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // All processes of a browser are ended at once.
            .process_group(0)
            .spawn()
            .unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the driver listens", || TcpStream::connect(at).is_ok());
        let mut args = vec![
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--window-size=1400,1000",
        ];
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox");
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let mut browser = Self { driver, at, session: String::new(), _directory: directory };
        let session = browser.ask("POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    /// Asks the driver, and returns the value of its answer.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let (at, octets) = (self.at, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {octets}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            assert!(answer.read_line(&mut head).unwrap() > 0, "{method} {path}: no answer");
            if let Some((name, value)) = head[from..].split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        // It keeps the connection, whatever it is asked to do.
        let mut text = vec![0; length];
        answer.read_exact(&mut text).unwrap();
        let mut answer: Value = serde_json::from_slice(&text).unwrap();
        let value = answer["value"].take();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {value}");
        value
    }

    fn of_session(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Goes to a page.
    pub(super) fn open(&self, url: &str) {
        self.of_session("/url", &json!({ "url": url }));
    }

    /// Returns what a function's body returns in the page.
    pub(super) fn run(&self, script: &str) -> Value {
        self.of_session("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Returns the text of the first element that a selector finds.
    pub(super) fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.run(&format!("return document.querySelector({selector})?.innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until it is so in the page.
    pub(super) fn wait(&self, script: &str) {
        wait_until(script, || self.run(&format!("return Boolean({script})")) == true);
    }

    /// Presses keys: what has the focus gets them.
    pub(super) fn press(&self, keys: &str) {
        let press = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let actions: Vec<_> = press.collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.of_session("/actions", &json!({ "actions": [keyboard] }));
    }

    /// Messages of its console since they were last asked for, and requests that it made.
    pub(super) fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.of_session("/se/log", &json!({ "type": kind }));
        log.as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.driver.id().cast_signed()) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        self.driver.wait().ok();
    }
}
