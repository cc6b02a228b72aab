//! The client for Python: its own tests on a fabric, and its example among our programs.

use crate::{
    support::Fabric,
    tools::{Service, run, yard},
};
use std::{path::Path, process::Command};

pub(crate) fn python(fabric: &Fabric, args: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    let mut command = Command::new("python3");
    command.args(args).current_dir(&folder).env("PYTHONPATH", &folder);
    // Nothing is left in the checkout.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("SWITCHYARD_SERVER", fabric.address.to_string());
    command
}

// seed H.4.3, H.4.7, H.4.34, H.4.46
#[test]
fn its_own_tests_pass() {
    let fabric = Fabric::start(&[]);
    let tests = ["-W", "error", "-m", "unittest", "discover", "-s", "tests"];
    let (code, _, said) = run(&mut python(&fabric, &tests));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Ran 13 tests"), "{said}");
}

#[test]
fn its_example_answers_our_ping() {
    let fabric = Fabric::start(&[]);
    let echo = Service::start(&mut python(&fabric, &["examples/echo.py"]));
    let expected = "[svc_echo] endpoint_id=1 mac=02:53:59:00:00:01 ip=10.0.0.2 udp_port=7007\n";
    assert_eq!(echo.said, expected);
    let (code, out, err) = run(yard(&fabric, "ping --count 3").env("PING_MSG", "hello"));
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.matches("[cli] got reply from 10.0.0.2:7007: b'hello'\n").count(), 3, "{out}");
}
