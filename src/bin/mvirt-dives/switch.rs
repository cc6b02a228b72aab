//! What commands do: VLANs are plain switched networks of the embedded daemon, each with a port
//! that leads to the mesh, and one for each TAP device and listener.

use super::flags::Flags;
use mvirt_net::{
    control::{Control, Handle},
    dives::{
        console::{self, Command, VlanCommand, vlan_name},
        node::Node,
    },
    embedded::{self, Embedded, RequestError, Settings, StartError},
    locator,
    printable::printable,
    proto::{CreatePortRequest, DeleteNetworkRequest, DeletePortRequest, ListMacsRequest},
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error,
    fmt::{Display, Write as _},
    sync::Arc,
};
use tokio::sync::Mutex;

/// VLANs at most: each is a network with a port or more.
const MOST_VLANS: usize = 1024;

/// A switch that runs.
pub(crate) struct Switch {
    control: Handle,
    flags: Flags,
    mesh: Arc<Node>,
    /// Commands are carried out one after the other.
    vlans: Mutex<BTreeMap<u32, Vlan>>,
}

/// What was attached to a VLAN.
#[derive(Default)]
struct Vlan {
    /// Devices, and the port of each.
    taps: Vec<(String, String)>,
    /// Where QEMU may connect, and the port of each.
    listeners: Vec<((String, u16), String)>,
}

/// Why a command was not carried out.
struct Failed(String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Switch {
    /// Starts the daemon that it is made of.
    pub(crate) fn daemon() -> Result<Embedded, StartError> {
        Embedded::start(Settings { networks: MOST_VLANS, ..Settings::default() })
    }

    /// Joins the mesh.
    pub(crate) async fn start(flags: Flags, daemon: &Embedded) -> Result<Self, Box<dyn Error>> {
        let settings = flags.settings();
        // Now, and not with the first VLAN: peers are shown before there is one.
        let mesh =
            daemon.control().call(move |control| control.meshes().start(&settings)).await??;
        let control = daemon.control().clone();
        Ok(Self { control, flags, mesh, vlans: Mutex::default() })
    }

    /// Carries out a line, in the focus of a VLAN or of the switch. Returns what is answered, and
    /// whether it was carried out.
    pub(crate) async fn execute(&self, focus: &mut Option<u32>, line: &str) -> (String, bool) {
        let command = match console::parse(*focus, line) {
            Ok(command) => command,
            Err(refused) => return (format!("{}\n", printable(&refused.to_string())), false),
        };
        match self.carry_out(focus, command).await {
            Ok(output) => (output, true),
            // One line: it may quote what a line of a file system or name service said.
            Err(Failed(why)) => (format!("ERR {}\n", printable(&why.replace('\n', " "))), false),
        }
    }

    async fn carry_out(&self, focus: &mut Option<u32>, command: Command) -> Result<String, Failed> {
        let mut vlans = self.vlans.lock().await;
        match command {
            Command::ShowPeers => return Ok(console::peers(self.mesh.peers())),
            Command::ShowTotals => return Ok(console::totals(self.mesh.totals())),
            Command::ShowVlans => return Ok(lines(vlans.keys())),
            Command::Help => return Ok(console::help(*focus).into()),
            Command::Exit => *focus = None,
            Command::Vlan(id) => {
                if let Entry::Vacant(place) = vlans.entry(id) {
                    self.make(id).await?;
                    place.insert(Vlan::default());
                }
                *focus = Some(id);
            }
            Command::Save(file) => {
                let failed = |error| Failed(format!("save {file}: {error}"));
                std::fs::write(&file, script(&vlans)).map_err(failed)?;
            }
            Command::InVlan(id, command) => {
                // VLANs never go: whoever is in one finds it.
                let vlan = vlans.entry(id).or_default();
                return self.carry_out_in(id, vlan, command).await;
            }
        }
        Ok(String::new())
    }

    async fn carry_out_in(
        &self,
        id: u32,
        vlan: &mut Vlan,
        command: VlanCommand,
    ) -> Result<String, Failed> {
        match command {
            VlanCommand::ShowMacs => return self.macs(id, vlan).await,
            VlanCommand::ShowTaps => return self.taps(id, vlan).await,
            VlanCommand::ShowListeners => {
                return Ok(lines(
                    vlan.listeners.iter().map(|((host, port), _)| format!("{host} {port}")),
                ));
            }
            VlanCommand::Tap(device) => {
                let port = self.attach(id, format!("tap://{device}")).await?;
                vlan.taps.push((device, port));
            }
            VlanCommand::NoTap(device) => {
                let at = vlan.taps.iter().position(|(tap, _)| *tap == device);
                let at = at.ok_or_else(|| format!("no tap {device}: it is not attached here"))?;
                self.detach(vlan.taps.remove(at).1).await?;
            }
            VlanCommand::Listen(host, port) => {
                let locator = listen(&host, port).await?;
                let made = self.attach(id, locator).await?;
                vlan.listeners.push(((host, port), made));
            }
            VlanCommand::NoListen(host, port) => {
                let listener = (host, port);
                let at = vlan.listeners.iter().position(|(found, _)| *found == listener);
                let (host, port) = &listener;
                let at = at.ok_or_else(|| format!("no listen {host} {port}: there is none"))?;
                self.detach(vlan.listeners.remove(at).1).await?;
            }
        }
        Ok(String::new())
    }

    /// Makes a VLAN, which is in the mesh then.
    async fn make(&self, id: u32) -> Result<(), Failed> {
        let network = embedded::plain_network(&vlan_name(id));
        let made = self.control.change(move |control| control.create_network(&network)).await?;
        made?;
        if let Err(failed) = self.attach(id, self.flags.locator(id)).await {
            let request = DeleteNetworkRequest { id: vlan_name(id), ..Default::default() };
            self.control.change(move |control| control.delete_network(&request)).await??;
            return Err(failed);
        }
        Ok(())
    }

    /// Makes a port of a VLAN. Returns its name.
    async fn attach(&self, vlan: u32, locator: String) -> Result<String, Failed> {
        let network_id = vlan_name(vlan);
        let request = CreatePortRequest { network_id, locator, ..Default::default() };
        let made = self.control.change(move |control| control.create_port(&request)).await?;
        Ok(made.map_err(RequestError::from)?.name)
    }

    async fn detach(&self, id: String) -> Result<(), Failed> {
        let request = DeletePortRequest { id, ..Default::default() };
        self.control.change(move |control| control.delete_port(&request)).await??;
        Ok(())
    }

    async fn taps(&self, id: u32, vlan: &Vlan) -> Result<String, Failed> {
        let ports: Vec<_> = vlan.listeners.iter().map(|(_, port)| port.clone()).collect();
        let count = move |control: &mut Control| {
            let ports = ports.iter().filter_map(|port| control.get_port(port).ok());
            ports.map(|port| port.attachments.len()).sum()
        };
        let connections: usize = self.control.call(count).await?;
        let connection = format!("{}/unix", vlan_name(id));
        let taps = vlan.taps.iter().map(|(device, _)| device);
        Ok(lines(taps.chain(std::iter::repeat_n(&connection, connections))))
    }

    /// MACs of this switch by the devices that they are behind, and those of peers.
    async fn macs(&self, id: u32, vlan: &Vlan) -> Result<String, Failed> {
        let request = ListMacsRequest { network_id: vlan_name(id) };
        let learned = self.control.list_macs(request).await??.macs;
        let connection = format!("{}/unix", vlan_name(id));
        let place = |port: &str| {
            let tap = vlan.taps.iter().find(|(_, name)| name == port);
            let listener = || vlan.listeners.iter().find(|(_, name)| name == port);
            tap.map(|(device, _)| device).or_else(|| listener().map(|_| &connection))
        };
        // Those behind the mesh are known there, each with its peer.
        let local = learned.iter().filter_map(|learned| {
            let place = place(&learned.port)?.clone();
            Some((learned.mac.clone(), place, learned.age_seconds.into()))
        });
        let behind_peers = self.mesh.macs(id).into_iter();
        let behind_peers = behind_peers
            .map(|seen| (seen.mac.to_string(), seen.peer.to_string(), seen.age.as_secs()));
        let mut macs: Vec<_> = local.chain(behind_peers).collect();
        macs.sort();
        Ok(macs.iter().map(|(mac, place, age)| console::mac(mac, place, *age)).collect())
    }
}

fn lines<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|line| format!("{line}\n")).collect()
}

/// Returns what a port that listens for QEMU is made of. The host may be a name.
async fn listen(host: &str, port: u16) -> Result<String, Failed> {
    let failed = |why: &dyn Display| Failed(format!("listen {host} {port}: {why}"));
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| failed(&error))?;
    let address = found.next().ok_or_else(|| failed(&"the name has no address"))?;
    let insecure = !address.ip().is_loopback();
    let listen = locator::Listen::Tcp { address, insecure };
    Ok(locator::Locator::StreamListen(locator::StreamListen { listen, max: None }).to_string())
}

/// Returns commands that make everything anew.
fn script(vlans: &BTreeMap<u32, Vlan>) -> String {
    let mut text = String::new();
    for (id, vlan) in vlans {
        // A String takes everything.
        writeln!(text, "vlan {id}").ok();
        for (device, _) in &vlan.taps {
            writeln!(text, "tap {device}").ok();
        }
        for ((host, port), _) in &vlan.listeners {
            writeln!(text, "listen {host} {port}").ok();
        }
        text.push_str("exit\n");
    }
    text
}
