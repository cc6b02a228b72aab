//! Any octets as a request of a VDE client, or as a switch's reply: what is read is written as what
//! is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::wire::{
    Writer,
    vde::{self, Named, Request},
};

fuzz_target!(|octets: &[u8]| {
    if let Some(name) = vde::parse_reply(octets) {
        assert!(matches!(name.named(), Some(Named::Path(path)) if !path.contains(&0)));
    }
    let Ok(request) = Request::parse(octets) else { return };
    assert!(request.socket.named().is_some());
    let mut buffer = [0; vde::MAX_REQUEST];
    let mut writer = Writer::new(&mut buffer);
    request.write(&mut writer).expect("what is longer than clients send is cut");
    let again = Request::parse(writer.since(0)).expect("it was written by us");
    assert_eq!((again.port, again.socket), (request.port, request.socket));
    assert!(request.description.starts_with(again.description));
});
