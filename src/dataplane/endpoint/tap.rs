//! One async task a TAP device: it is opened, made a port, and opened again when it is gone.

use super::{
    connection,
    export::Exported,
    links::Links,
    port_handle::{PortHandle, Signal},
};
use crate::{
    dataplane::{
        PortState,
        port::{
            Port,
            descriptor::DescriptorPort,
            interface::Interface,
            rest::Rest,
            tap::{Make, Tap},
        },
    },
    log_limit::{LogLimit, Said},
};
use std::{
    convert::Infallible,
    fs, io, mem,
    path::Path,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

pub use crate::locator::Tap as Spec;

/// How long until a device that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// A device that is open.
#[derive(Debug)]
pub(in crate::dataplane) struct Device {
    tap: Tap,
    /// Frames that waited at another process.
    frames: Vec<Vec<u8>>,
    interface: Interface,
    links: Links,
}

impl Device {
    fn open(spec: &Spec) -> io::Result<Self> {
        let make = if spec.create { Make::Always } else { Make::Unless };
        let tap = Tap::open(&spec.interface, make).map_err(|error| explained(spec, error))?;
        let device = Self::of(tap, spec)?;
        let interface = &device.interface;
        // Before it is up: nobody is to see it as it was.
        spec.mac.map_or(Ok(()), |mac| {
            let named = |error: io::Error| {
                let command = format!("ip link set {} address {mac}", spec.interface);
                io::Error::new(error.kind(), format!("it has another MAC, and {error}: {command}"))
            };
            interface.set_mac(mac).map_err(named)
        })?;
        spec.mtu.map_or(Ok(()), |mtu| interface.set_mtu(mtu))?;
        spec.master.as_ref().map_or(Ok(()), |bridge| {
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{bridge}: {error}"));
            interface.join(bridge).map_err(named)
        })?;
        if spec.up {
            interface.set_up()?;
        }
        Ok(device)
    }

    fn of(tap: Tap, spec: &Spec) -> io::Result<Self> {
        // First, so that no change is missed after the state was asked for.
        let links = Links::new()?;
        Ok(Self { tap, frames: Vec::new(), interface: Interface::named(&spec.interface)?, links })
    }

    /// Returns the state of its port, and why.
    fn state(&self, spec: &Spec) -> (PortState, String) {
        let name = &spec.interface;
        match self.interface.is_up() {
            Ok(false) => (PortState::Idle, format!("the interface is down: ip link set {name} up")),
            Ok(true) => (PortState::Active, String::new()),
            // In a namespace of a container's, most likely, where its state cannot be seen. Of one
            // that was deleted the port fails.
            Err(_) => (PortState::Active, String::new()),
        }
    }
}

/// Returns an error with what can be done about it.
fn explained(spec: &Spec, error: io::Error) -> io::Error {
    let name = &spec.interface;
    let text = match error.kind() {
        io::ErrorKind::ResourceBusy if spec.create => format!("{name} is there already"),
        io::ErrorKind::ResourceBusy => match holder(name) {
            Some(holder) => format!("{name} is open already, by {holder}"),
            None => format!("{name} is open already, by another process, or is no TAP device"),
        },
        io::ErrorKind::PermissionDenied => format!(
            "cannot open {name}: {error}; it needs CAP_NET_ADMIN, or a device that is this user's: \
             ip tuntap add {name} mode tap user NAME"
        ),
        io::ErrorKind::InvalidInput => {
            format!("{name} is an interface, but no TAP device of one queue")
        }
        io::ErrorKind::NotFound => format!("there is no /dev/net/tun: modprobe tun ({error})"),
        _ => format!("cannot open {name}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// Returns who has a TAP device open, if this process may see that.
fn holder(interface: &str) -> Option<String> {
    // proc(5): a descriptor of such a device says which one it is.
    let wanted = format!("iff:\t{interface}");
    // In another network namespace there may be another device of this name. Each thread is in one.
    let namespace = |thread: &Path| fs::read_link(thread.join("ns/net")).ok();
    let here = namespace(Path::new("/proc/thread-self"));
    let is_here = |process: &Path| {
        let mut threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        threads.any(|thread| namespace(&thread.path()) == here)
    };
    let has_it = |process: &Path| {
        if !is_here(process) {
            return false;
        }
        let files = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.any(|text| text.lines().any(|line| line == wanted))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let mut numbered = processes.filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    });
    let process = numbered.find(|process| has_it(process))?;
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("process {} ({})", process.file_name()?.display(), command.trim_end()))
}

/// Opens the device, or goes on with what another process of the daemon `exported`: the device, if
/// it had one.
pub(in crate::dataplane) fn open(
    spec: &Spec,
    exported: Option<Exported>,
) -> io::Result<Option<Device>> {
    match exported {
        // Without one, a hand-over must not fail for it: it is looked for as before.
        Some(exported) => {
            let mut fds = exported.fds;
            // As it comes from the service manager, and from versions before this one.
            let alone = (fds.len() == 1).then(|| (mem::take(&mut fds), Rest::default()));
            let given = alone.map_or_else(|| connection::saved(fds, 1), |alone| Ok(Some(alone)))?;
            let device = given.map(|(mut fds, rest)| {
                let device = Device::of(Tap::from(fds.remove(0)), spec)?;
                Ok(Device { frames: rest.frames, ..device })
            });
            device.transpose()
        }
        None => Device::open(spec).map(Some),
    }
}

/// Keeps the device attached until `stop`.
pub(in crate::dataplane) async fn serve(
    spec: Spec,
    mut device: Option<Device>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut log = LogLimit::default();
    port.goes_on();
    loop {
        let ended = tokio::select! {
            ended = keep(&spec, &mut device, &mut port) => ended,
            _ = &mut stop => return port.end().await,
        };
        port.end().await;
        // Closed, so that a device of this name can be made anew.
        device = None;
        let Err(error) = ended;
        port.tell_why(PortState::Failed, &error.to_string());
        if let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now()) {
            let (name, interface) = (port.name(), &spec.interface);
            tracing::warn!(port = name, interface, %error, unsaid, "a port is without its device");
        }
        tokio::select! {
            () = port.pause(RETRY) => {}
            _ = &mut stop => return,
        }
    }
}

/// Keeps the port of a device, which is opened where it is not yet, attached until it fails.
async fn keep(
    spec: &Spec,
    device: &mut Option<Device>,
    port: &mut PortHandle,
) -> io::Result<Infallible> {
    let device = match device {
        Some(device) => device,
        None => device.insert(Device::open(spec)?),
    };
    port.begin();
    port.connected();
    port.keep(|| Ok(vec![device.tap.share()?]));
    let mut made: Box<dyn Port> =
        Box::new(DescriptorPort::with_frames(device.tap.clone(), &device.frames)?);
    loop {
        let (mut state, why) = device.state(spec);
        port.attach(made, state);
        if !why.is_empty() {
            port.tell_why(state, &why);
        }
        let signal = loop {
            tokio::select! {
                signal = port.next() => break signal,
                changed = device.links.changed() => {
                    changed?;
                    let (now, why) = device.state(spec);
                    if std::mem::replace(&mut state, now) != now {
                        port.tell_why(now, &why);
                    }
                }
            }
        };
        let back = port.detach().await;
        match signal {
            Signal::Moved => {}
            Signal::Export(request) => {
                port.export(request, connection::save(&[], back.as_deref())).await;
            }
            Signal::Failed(failure) => return Err(io::Error::other(failure)),
        }
        made = match back {
            Some(made) => made,
            // It ends with the reactors.
            None => std::future::pending().await,
        };
    }
}
