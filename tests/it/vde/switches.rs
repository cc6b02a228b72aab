//! The daemon serves the directory of a VDE switch, and is a client of one: with programs of VDE's
//! at the other end.

use super::stock::{ALL, Plug, Switch, frame, mac};
use crate::{
    daemon::{Daemon, wait_until},
    lab::{create, get, segment},
};
use mvirt_net::proto::{DeletePortRequest, GuestVlans, L2Policy, Port, PortState, Toggle};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, bind, connect, recv, send,
    sendto, socket,
};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

/// A daemon with a segment that is as plain as a small switch.
pub(super) fn lab() -> Daemon {
    lab_with(&[])
}

/// Likewise, with flags of the daemon's.
pub(crate) fn lab_with(flags: &[&str]) -> Daemon {
    let mut daemon = Daemon::start_with(flags);
    daemon.network_with("lab", |request| {
        segment(request);
        request.l2 = Some(L2Policy {
            storm_pps: u32::MAX,
            guest_vlans: GuestVlans::Pass.into(),
            loop_guard: Toggle::Off.into(),
            ..Default::default()
        });
    });
    daemon
}

/// Serves a directory by a port of this kind. Returns the directory.
pub(super) fn serve(daemon: &mut Daemon, kind: &str, options: &str) -> PathBuf {
    let directory = daemon.path("s/vde");
    create(daemon, "vde", &format!("{kind}://{}{options}", directory.display())).unwrap();
    wait_until("it listens", || get(daemon, "vde").state() == PortState::Listening);
    directory
}

pub(super) fn wait_for_clients(daemon: &mut Daemon, wanted: usize) -> Port {
    let mut port = Port::default();
    wait_until(&format!("there are {wanted} clients"), || {
        port = get(daemon, "vde");
        port.attachments.len() == wanted
    });
    port
}

/// Plugs of VDE's in `directory`, all of them members.
fn plugs<const N: usize>(daemon: &mut Daemon, directory: &Path) -> [Plug; N] {
    let plugs = [(); N].map(|()| Plug::stock(&format!("vde://{}", directory.display())));
    wait_for_clients(daemon, N);
    plugs
}

// seed H.5.14, H.5.19, H.5.30
#[test]
fn plugs_of_vde_talk_by_our_switch_each_hearing_what_is_its_own() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let [mut a, mut b, c] = plugs(&mut daemon, &directory);
    for len in [14, 60, 1514, 9018] {
        let to_all = frame(ALL, 1, len);
        a.sends(&to_all);
        assert_eq!(b.hears(), to_all, "{len} octets, neither cut nor padded");
        assert_eq!(c.hears(), to_all);
        let to_one = frame(mac(1), 2, len);
        b.sends(&to_one);
        assert_eq!(a.hears(), to_one);
    }
    // A marker behind them: what was for another has not come before it.
    let marker = frame(ALL, 2, 100);
    b.sends(&marker);
    assert_eq!(c.hears(), marker);
    assert_eq!(a.hears(), marker);
    assert!(b.is_silent(), "nobody hears itself");
    let said = get(&mut daemon, "vde").attachments;
    let remote = said.iter().map(|client| client.remote.clone()).collect::<Vec<_>>().join("\n");
    assert!(remote.contains(&format!("pid={}: pid {} of user", a.id(), a.id())), "{remote}");
    // A cable that is pulled out, by its control connection.
    drop(c);
    wait_for_clients(&mut daemon, 2);
    let left = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.count(), 3, "the control socket and one each");
}

#[test]
fn clients_and_uplinks_go_to_the_new_process() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let [mut a, mut b] = plugs(&mut daemon, &directory);
    let theirs = daemon.path("s/theirs");
    let _switch = Switch::start(&theirs);
    create(&mut daemon, "uplink", &format!("vde://{}", theirs.display())).unwrap();
    let mut c = Plug::stock(&theirs.display().to_string());
    wait_until("c is heard", || {
        c.sends(&frame(ALL, 3, 60));
        a.hears_within(100).is_some()
    });
    for turn in 0..3 {
        assert!(daemon.hand_over());
        wait_for_clients(&mut daemon, 2);
        let len = 100 + turn;
        a.sends(&frame(ALL, 1, len));
        while b.hears() != frame(ALL, 1, len) {}
        while c.hears() != frame(ALL, 1, len) {}
        c.sends(&frame(mac(1), 3, len));
        while a.hears() != frame(mac(1), 3, len) {}
    }
    // Who comes later has a name that is not taken.
    let [mut d] = [Plug::stock(&directory.display().to_string())];
    wait_for_clients(&mut daemon, 3);
    d.sends(&frame(ALL, 4, 60));
    while b.hears() != frame(ALL, 4, 60) {}
    b.sends(&frame(mac(4), 2, 60));
    assert_eq!(d.hears(), frame(mac(4), 2, 60));
    drop(a);
    wait_for_clients(&mut daemon, 2);
}

// seed H.5.18
#[test]
fn all_plugs_of_vde_at_our_hub_hear_all() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "hub", "");
    let [mut a, mut b, c] = plugs(&mut daemon, &directory);
    a.sends(&frame(ALL, 1, 60));
    assert_eq!((b.hears(), c.hears()), (frame(ALL, 1, 60), frame(ALL, 1, 60)));
    b.sends(&frame(mac(1), 2, 60));
    assert_eq!((a.hears(), c.hears()), (frame(mac(1), 2, 60), frame(mac(1), 2, 60)));
}

// seed H.5.14
#[test]
fn a_port_is_a_client_of_vde_switch_whenever_that_is_there() {
    let mut daemon = lab();
    let ours = serve(&mut daemon, "switch", "");
    let theirs = daemon.path("s/theirs");
    let locator = format!("vde://{}[7]", theirs.display());
    create(&mut daemon, "uplink", &locator).unwrap();
    wait_until("it says why it is down", || {
        let port = get(&mut daemon, "uplink");
        port.state() == PortState::Down && port.error.contains("No such file")
    });
    for _ in 0..2 {
        let switch = Switch::start(&theirs);
        wait_until("it is up", || get(&mut daemon, "uplink").state() == PortState::Up);
        let mut a = Plug::stock(&format!("vde://{}", ours.display()));
        wait_for_clients(&mut daemon, 1);
        let mut b = Plug::stock(&format!("vde://{}", theirs.display()));
        // Until it is plugged in, nobody hears it.
        let mut heard = None;
        wait_until("the other switch's plug hears", || {
            a.sends(&frame(ALL, 1, 1514));
            heard = b.hears_within(100);
            heard.is_some()
        });
        assert_eq!(heard, Some(frame(ALL, 1, 1514)));
        b.sends(&frame(mac(1), 2, 60));
        assert_eq!(a.hears(), frame(mac(1), 2, 60));
        let leftover = |name: &str| name.starts_with(&format!(".{:05}-", daemon.pid()));
        let names = fs::read_dir(&theirs).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| leftover(&name.to_string_lossy())));
        drop((switch, a));
        wait_until("it is down", || get(&mut daemon, "uplink").state() == PortState::Down);
        wait_for_clients(&mut daemon, 0);
    }
}

#[test]
fn the_directory_is_made_as_vde_switch_makes_it_and_goes_with_its_port() {
    let mut daemon = lab();
    let modes = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    let delete = |daemon: &mut Daemon| {
        let request = DeletePortRequest { id: "vde".into(), ..Default::default() };
        daemon.call(async |client| client.delete_port(request).await).unwrap();
    };
    for (options, socket, directory) in [
        ("", 0o600, 0o2700),
        ("[mode=0660]", 0o660, 0o2770),
        ("[dirmode=0755]", 0o644, 0o755),
        ("[mode=0666/dirmode=0711]", 0o666, 0o711),
    ] {
        let path = serve(&mut daemon, "switch", options);
        assert_eq!((modes(&path.join("ctl")), modes(&path)), (socket, directory), "{options}");
        let client = Plug::stock(&path.display().to_string());
        wait_for_clients(&mut daemon, 1);
        // As soon as it is connected, it takes its own file away.
        wait_until("it is connected", || {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
            !names.into_iter().any(|name| name.to_string_lossy().starts_with('.'))
        });
        delete(&mut daemon);
        wait_until("it is gone", || !path.exists());
        assert!(client.ends().success(), "its cable was pulled out");
    }
    // What somebody made is as it was, and what is not ours stays.
    let path = daemon.path("s/vde");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(path.join("note"), "text").unwrap();
    serve(&mut daemon, "switch", "");
    assert_eq!(modes(&path), 0o750);
    delete(&mut daemon);
    wait_until("the socket is gone", || !path.join("ctl").exists());
    assert_eq!(fs::read_to_string(path.join("note")).unwrap(), "text");
}

#[test]
fn a_switch_that_is_served_is_left_alone_and_one_that_died_is_replaced() {
    let mut daemon = lab();
    let theirs = daemon.path("s/vde");
    let switch = Switch::start(&theirs);
    let refused = create(&mut daemon, "vde", &format!("switch://{}", theirs.display()));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("a VDE switch is serving"), "{refused}");
    // Killed, it leaves its sockets.
    let plug = Plug::stock(&theirs.display().to_string());
    wait_until("it has a socket, and the plug none any more", || {
        let names = fs::read_dir(&theirs).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.len() == 2 && !names.iter().any(|name| name.starts_with('.'))
    });
    drop((switch, plug));
    serve(&mut daemon, "switch", "");
    let names = fs::read_dir(&theirs).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["ctl"]);
    // As after a crash of our own: the clients come again by themselves, if they like.
    let [_a] = plugs(&mut daemon, &theirs);
    daemon.crash_and_restart();
    wait_until("it listens again", || get(&mut daemon, "vde").state() == PortState::Listening);
    let [mut a, b] = plugs(&mut daemon, &theirs);
    a.sends(&frame(ALL, 1, 60));
    assert_eq!(b.hears(), frame(ALL, 1, 60));
}

/// What UML's driver `daemon` and other clients of uml_switch do: an abstract name with octets in
/// it that nobody has set, no description, and each frame to the switch's socket by its name.
#[test]
fn clients_of_uml_switch_have_abstract_names() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let [mut a] = plugs(&mut daemon, &directory);
    let mut name = [0x5a; 107];
    name[..11].copy_from_slice(&[&[0; 3][..], &std::process::id().to_ne_bytes(), &[1; 4]].concat());
    let data = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    bind(&data, &SocketAddrUnix::new_abstract_name(&name).unwrap()).unwrap();
    let mut control = UnixStream::connect(directory.join("ctl")).unwrap();
    let head = [0xfeed_face_u32, 3, 0].map(u32::to_ne_bytes).concat();
    let family = 1_u16.to_ne_bytes();
    control.write_all(&[&head[..], &family, &[0], &name].concat()).unwrap();
    let mut reply = [0; 110];
    control.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], family);
    let path = reply[2..].split(|octet| *octet == 0).next().unwrap();
    let to = SocketAddrUnix::new(path).unwrap();
    wait_for_clients(&mut daemon, 2);
    sendto(&data, &frame(ALL, 2, 60), SendFlags::empty(), &to).unwrap();
    assert_eq!(a.hears(), frame(ALL, 2, 60));
    a.sends(&frame(mac(2), 1, 60));
    let mut buffer = [0; 100];
    let (_, len) = recv(&data, &mut buffer, RecvFlags::empty()).unwrap();
    assert_eq!(buffer[..len], frame(mac(2), 1, 60));
    // Nobody else can send to that socket.
    let other = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    assert!(connect(&other, &to).is_err());
    // The end of the control connection unplugs it.
    drop(control);
    wait_for_clients(&mut daemon, 1);
    assert!(send(&data, &[], SendFlags::empty()).is_err());
    assert_eq!(
        fs::metadata(directory.join("ctl")).unwrap().uid(),
        rustix::process::geteuid().as_raw()
    );
}
