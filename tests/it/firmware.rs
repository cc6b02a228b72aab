//! Firmware from Debian's packages, before any operating system: QEMU's iPXE ROM, and OVMF with its own driver, which
//! speaks the legacy interface of virtio.

use super::{daemon::Daemon, machines::Machine};
use mvirt_net::proto::{Addressing, Nic};
use std::{
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Takes out of what a console says the sequences that move its cursor and colour it (ECMA-48 §5.4: ESC, `[`,
/// parameters, and a last octet from `@` on).
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
    input: ChildStdin,
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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (input, mut console) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
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
        Self { process, input, output, said: String::new() }
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

    /// Types a line, no faster than the BIOS takes keys, and gives what is said up to the next prompt.
    fn command(&mut self, line: &str, prompt: &str) -> String {
        for keys in line.as_bytes().chunks(8) {
            self.input.write_all(keys).unwrap();
            self.expect(std::str::from_utf8(keys).unwrap(), Duration::from_secs(20));
        }
        self.input.write_all(b"\r").unwrap();
        self.expect(prompt, Duration::from_secs(90))
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A guest that serves a file of 1 MiB and a script by HTTP.
fn web_server(daemon: &Daemon, nic: &Nic) -> Machine {
    let mut machine = Machine::uml(daemon, nic);
    machine.succeed("lease4 && lease6");
    machine.succeed("mkdir /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1024 count=1024");
    machine.succeed("echo '#!ipxe' >/tmp/www/script && httpd -h /tmp/www -p 80");
    machine
}

#[test]
fn ipxe_boots_from_another_guest() {
    // Both interfaces of the same device: modern, and that of virtio 0.9.5 with its shorter header.
    for properties in ["", ",disable-modern=on"] {
        let mut daemon = Daemon::start();
        daemon.network("prod");
        // It takes all for a broadcast that has a mask of /32 (mended in 2024).
        let [web, boot] = ["web", "boot"]
            .map(|name| daemon.nic_with("prod", name, |r| r.set_addressing(Addressing::Subnet)));
        let _web = web_server(&daemon, &web);
        let mut ipxe = Firmware::start(&boot, &[], properties);
        ipxe.expect("Press Ctrl-B", Duration::from_secs(60));
        ipxe.input.write_all(b"\x02").unwrap();
        let prompt = "iPXE>";
        ipxe.expect(prompt, Duration::from_secs(60));
        let told = ipxe.command("dhcp net0", prompt);
        assert!(told.contains("ok"), "{told}");
        let told = ipxe.command("route", prompt);
        assert!(told.contains(&format!("net0: {}/", boot.ipv4_address)), "{told}");
        assert!(told.contains("gw 169.254.0.1"), "{told}");
        let told = ipxe.command(&format!("imgfetch http://{}/file", web.ipv4_address), prompt);
        assert!(told.contains("ok"), "{told}");
        let told = ipxe.command(&format!("imgfetch http://[{}]/script", web.ipv6_address), prompt);
        assert!(told.contains("ok"), "{told}");
        let told = ipxe.command("imgstat", prompt);
        assert!(told.contains("file : 1048576 bytes"), "{told}");
        assert!(told.contains("script : 7 bytes [script]"), "{told}");
        drop(ipxe);
        assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
    }
}

/// What OVMF's shell runs by itself. A lease takes it some seconds.
const SCRIPT: &str = "echo begun\r
connect -r\r
ifconfig -s eth0 dhcp\r
ifconfig6 -s eth0 auto\r
for %n in 1 2 3 4 5\r
  stall 3000000\r
  ping -n 1 PEER\r
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
    let script = SCRIPT.replace("PEER", &web.ipv4_address);
    std::fs::write(disk.path().join("startup.nsh"), script).unwrap();
    let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let variables = "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
    let folder = format!("if=none,id=disk,format=raw,file=fat:rw:{}", disk.path().display());
    let drives = ["-drive", code, "-drive", variables, "-drive", &folder];
    let arguments =
        [&["-machine", "q35"][..], &drives, &["-device", "ide-hd,drive=disk,bootindex=0"]].concat();
    // Without a ROM its own driver is used, which takes the legacy interface of a transitional device.
    let mut ovmf = Firmware::start(&boot, &arguments, ",romfile=");
    ovmf.expect("echo begun", Duration::from_secs(60));
    let told = ovmf.expect("echo ended", Duration::from_secs(100));
    assert!(told.contains(&format!("ipv4 address : {}", boot.ipv4_address)), "{told}");
    assert!(told.contains("default gateway: 169.254.0.1"), "{told}");
    assert!(told.contains(&format!("bytes from {} :", web.ipv4_address)), "{told}");
    assert!(told.contains("FD00::0002/"), "{told}");
    drop(ovmf);
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
