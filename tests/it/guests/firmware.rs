//! Firmware from Debian's packages, before any operating system: QEMU's iPXE ROM, and OVMF with its
//! own driver, which speaks the legacy interface of virtio.

use crate::{daemon::Daemon, machine::Machine};
use mvirt_net::proto::{Boot, Nic};
use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Takes out of what a console says the sequences that move its cursor and colour it (ECMA-48 §5.4:
/// ESC, `[`, parameters, and a last octet from `@` on).
#[derive(Default)]
struct Screen {
    /// Octets of the sequence that has begun.
    escaped: usize,
}

impl Screen {
    fn text(&mut self, octets: &[u8]) -> String {
        let mut text = String::new();
        for octet in octets {
            match (self.escaped, *octet) {
                (0, 0x1b) | (1, b'[') | (2.., ..b'@') => self.escaped += 1,
                (0, octet) => text.push(char::from(octet)),
                _ => self.escaped = 0,
            }
        }
        text
    }
}

/// A QEMU whose console is the firmware's.
struct Firmware {
    process: Child,
    output: mpsc::Receiver<String>,
    /// What came and was not yet looked for.
    said: String,
}

impl Firmware {
    /// With these arguments of QEMU, and properties of its network device.
    fn start(nic: &Nic, arguments: &[&str], properties: &str) -> Self {
        let Nic { socket_path, mac_address, .. } = nic;
        let mut process = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "128M", "-nographic", "-no-reboot"])
            .args(["-object", "memory-backend-memfd,id=mem0,size=128M,share=on"])
            .args(["-numa", "node,memdev=mem0", "-chardev"])
            .arg(format!("socket,id=net0,path={socket_path}"))
            .args(["-netdev", "vhost-user,id=net0,chardev=net0", "-device"])
            .arg(format!("virtio-net-pci,netdev=net0,mac={mac_address},vectors=0{properties}"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut console = process.stdout.take().unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut octets, mut screen) = ([0; 4096], Screen::default());
            while let Ok(count @ 1..) = console.read(&mut octets) {
                // Nobody listens once the test is over.
                if sender.send(screen.text(&octets[..count])).is_err() {
                    return;
                }
            }
        });
        Self { process, output, said: String::new() }
    }

    /// What is said up to and with `text`.
    fn expect(&mut self, text: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.said.find(text) {
                let rest = self.said.split_off(at + text.len());
                return std::mem::replace(&mut self.said, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(text) = self.output.recv_timeout(left) else {
                panic!("no {text:?} within {patience:?}:\n{}", self.said);
            };
            self.said += &text;
        }
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What iPXE is told to run: files of the guest that it has this from, over both families.
const BOOT: &str = "#!ipxe
route
imgfetch http://WEB4/file
imgfetch http://[WEB6]/script
imgstat
echo ended
";

#[test]
fn ipxe_boots_from_another_guest() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let web = daemon.nic("prod", "web");
    let url = format!("http://{}/boot.ipxe", web.ipv4_address);
    let boot = daemon.nic_with("prod", "boot", |r| {
        r.boot = Some(Boot { url, ..Default::default() });
    });
    let mut server = Machine::uml(&daemon, &web);
    server.succeed("lease4 && lease6");
    server.succeed("mkdir /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1024 count=1024");
    server.succeed("echo '#!ipxe' >/tmp/www/script && httpd -h /tmp/www -p 80");
    let script = BOOT.replace("WEB4", &web.ipv4_address).replace("WEB6", &web.ipv6_address);
    for line in script.lines() {
        server.succeed(&format!("echo '{line}' >>/tmp/www/boot.ipxe"));
    }
    // Both interfaces of the same device: modern, and that of virtio 0.9.5 with its shorter header.
    for properties in ["", ",disable-modern=on"] {
        let mut ipxe = Firmware::start(&boot, &[], properties);
        ipxe.expect("boot.ipxe", Duration::from_secs(90));
        let told = ipxe.expect("ended", Duration::from_secs(90));
        assert!(told.contains(&format!("net0: {}/", boot.ipv4_address)), "{told}");
        assert!(told.contains("gw 169.254.0.1"), "{told}");
        assert!(told.contains("file : 1048576 bytes"), "{told}");
        assert!(told.contains("script : 7 bytes [script]"), "{told}");
        drop(ipxe);
    }
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}

/// What OVMF's shell runs by itself. A lease takes it some seconds.
const SCRIPT: &str = "echo begun\r
connect -r\r
ifconfig -s eth0 dhcp\r
ifconfig6 -s eth0 auto\r
for %n in 1 2 3 4 5\r
  stall 3000000\r
  ping -n 1 PEER4\r
  ping6 -n 1 PEER6\r
endfor\r
ifconfig -l eth0\r
ifconfig6 -l eth0\r
echo ended\r
";

#[test]
fn the_driver_of_ovmf_finds_its_network() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let (web, boot) = (daemon.nic("prod", "web"), daemon.nic("prod", "boot"));
    let mut peer = Machine::uml(&daemon, &web);
    peer.succeed("lease4 && lease6");
    let disk = tempfile::tempdir().unwrap();
    let script = SCRIPT.replace("PEER4", &web.ipv4_address).replace("PEER6", &web.ipv6_address);
    std::fs::write(disk.path().join("startup.nsh"), script).unwrap();
    let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let variables = "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
    let folder = format!("if=none,id=disk,format=raw,file=fat:rw:{}", disk.path().display());
    let drives = ["-drive", code, "-drive", variables, "-drive", &folder];
    let arguments =
        [&["-machine", "q35"][..], &drives, &["-device", "ide-hd,drive=disk,bootindex=0"]].concat();
    // Without a ROM its own driver is used, which takes the legacy interface of a transitional
    // device.
    let mut ovmf = Firmware::start(&boot, &arguments, ",romfile=");
    ovmf.expect("echo begun", Duration::from_secs(60));
    let told = ovmf.expect("echo ended", Duration::from_secs(100));
    assert!(told.contains(&format!("ipv4 address : {}", boot.ipv4_address)), "{told}");
    assert!(told.contains("default gateway: 169.254.0.1"), "{told}");
    assert!(told.contains(&format!("bytes from {} :", web.ipv4_address)), "{told}");
    assert!(told.contains("FD00::0002/"), "{told}");
    // It writes the peer's address as it was given.
    assert!(told.contains(&format!("bytes from {} :", web.ipv6_address)), "{told}");
    drop(ovmf);
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
