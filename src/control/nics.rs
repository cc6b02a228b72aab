//! vNICs: created, found, changed and deleted.

use super::{
    Control, Limits, NicState, Owner, Whose,
    accounts::Accounts,
    addresses::{self, Wanted},
    change::Decided,
    compile,
    guest::Guest,
    locators,
    pages::Page,
    refusal::Refusal,
    requests::{self, NewNic},
    view,
};
use crate::{
    dataplane::{
        self, Access, Attached, Closing, Device, Exported, NewPort, PortSpec, dial, single,
        socket::{Framing, Prefix},
        tap, vde, vhost_user,
    },
    locator::{Dgram, Locator},
    log_limit::LogLimit,
    model::{Name, Network, NetworkKind, Nic, PortSecurity, SocketAccess, Transport},
    proto,
    store::{Change, Dependants, Put},
};
use jiff::Timestamp;
use std::{io, os::unix::fs::FileTypeExt, path::PathBuf};
use uuid::Uuid;

impl Control {
    /// Creates a vNIC and its socket, or finds that this very request was carried out before.
    pub fn create_nic(
        &self,
        request: &proto::CreateNicRequest,
        accounts: &Accounts,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        if request.network_id.is_empty() {
            return Err(Refusal::invalid("network_id", "", "required: a network's id or name"));
        }
        let network_id = self.find_network(&request.network_id)?;
        let new = NewNic::new(request.clone(), network_id, accounts.clone())?;
        if let Some(existing) = new.id.and_then(|id| self.nics.get(&id)) {
            return if is_same(&existing.model, network_id, &new) {
                Ok(Decided::unchanged(self.nic_view(existing)))
            } else {
                Err(Refusal::taken(
                    "id",
                    existing.model.id,
                    format!("vNIC {}, made by another request", existing.model.name),
                ))
            };
        }
        if let Some(orphan) = new.id.and_then(|id| self.orphans.get(&id)) {
            return Err(Refusal::taken("id", orphan.id, format!("vNIC {}", orphan.name)));
        }
        new.name.as_ref().map_or(Ok(()), |name| self.check_member_name(name))?;
        // Orphans count: they are served again when their network is.
        let there = self.nics.len() + self.orphans.len();
        Limits::check("vNIC", there, self.limits.nics, "max-nics")?;
        let nic = self.choose(network_id, new)?;
        self.check_route_count(&nic)?;
        self.check_security(&nic)?;
        // sun_path is short (unix(7)): found out before anything is stored.
        self.check_socket_path(&nic)?;
        if request.validate_only {
            return Ok(Decided::unchanged(self.new_view(&nic)));
        }
        Ok(Self::put_nic(None, nic))
    }

    fn put_nic(old: Option<Nic>, new: Nic) -> Decided<proto::Nic> {
        let id = new.id;
        let change = Change::PutNic(Put { old, new }.into());
        Decided::new(change, move |control| control.nic_view(&control.nics[&id]))
    }

    /// Makes the socket of a vNIC that is stored. One that cannot have it is refused, and deleted.
    // Not before it is stored: no VMM connects to what a crash would take back.
    pub(super) fn begin_nic(&mut self, nic: &Nic) -> Result<(), Refusal> {
        let (id, network) = (nic.id, nic.network_id);
        self.unpublished.insert(network);
        let made = self.listen(id, None);
        if let Err(error) = made {
            tracing::warn!(%id, %error, "a vNIC's socket cannot be made: refused");
            self.forget_nic(id);
            self.tell_network(network);
            self.commit(&[&Change::DeleteNic { id, with: Dependants::default() }])?;
            return Err(match &nic.transport {
                Transport::Tap(interface) => tap_refused(interface, error),
                Transport::Packet(interface) => {
                    locators::refused(&Locator::Packet(interface.clone()), error)
                }
                Transport::Dgram(Some(at)) => locators::refused(at, error),
                _ => socket_refused(&nic.socket, error),
            });
        }
        tracing::info!(nic = nic.name.as_str(), %id, "vNIC created");
        self.tell_nic(id);
        self.tell_network(network);
        Ok(())
    }

    /// Refuses a name that a vNIC or port has.
    pub(super) fn check_member_name(&self, name: &Name) -> Result<(), Refusal> {
        let owner = match (self.nic_names.get(name), self.port_names.get(name)) {
            (None, None) => return Ok(()),
            (Some(nic), _) => format!("vNIC {nic}"),
            (_, Some(port)) => format!("port {port}"),
        };
        Err(Refusal::taken("name", name, owner))
    }

    /// A free name for a vNIC or port that was given none.
    pub(super) fn choose_name(&self, kind: &str) -> Name {
        loop {
            // Short enough to be typed; a name that is taken is tried anew.
            let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
            let name = format!("{kind}-{:08x}", u32::from_be_bytes([a, b, c, d]));
            let name = name.parse().expect("letters, digits and a hyphen");
            if self.check_member_name(&name).is_ok() {
                return name;
            }
        }
    }

    fn check_socket_path(&self, nic: &Nic) -> Result<(), Refusal> {
        let (path, longest) = (self.socket_path(nic), dataplane::longest_socket_path());
        if path.as_os_str().len() <= longest {
            return Ok(());
        }
        Err(Refusal::Socket(io::Error::other(format!(
            "{} is longer than {longest} octets: choose a shorter --socket-dir",
            path.display()
        ))))
    }

    /// Refuses what only a switched network can let a guest do.
    fn check_security(&self, nic: &Nic) -> Result<(), Refusal> {
        let settings = &nic.settings;
        let asks = settings.mac_limit.is_some() || !settings.port_security.is_strict();
        if asks && self.networks[&nic.network_id].model.kind == NetworkKind::Routed {
            let field =
                if settings.port_security.is_strict() { "mac_limit" } else { "port_security" };
            let expected = "only a vNIC of a network of NETWORK_KIND_SWITCHED has it";
            return Err(Refusal::invalid(field, "given", expected));
        }
        if settings.mac_limit.is_some() && settings.port_security != PortSecurity::Off {
            let expected = "with PORT_SECURITY_OFF: others send from one MAC";
            return Err(Refusal::invalid("mac_limit", "given", expected));
        }
        Ok(())
    }

    fn check_route_count(&self, nic: &Nic) -> Result<(), Refusal> {
        let (routes, limit) = (nic.routed_ipv4.len() + nic.routed_ipv6.len(), self.limits.routes);
        if routes > limit {
            return Err(Refusal::Exhausted(format!(
                "{routes} routed prefixes, and --max-routes allows {limit} a vNIC"
            )));
        }
        Ok(())
    }

    /// A vNIC with everything chosen that was not given, and nothing that is taken.
    fn choose(&self, network_id: Uuid, new: NewNic) -> Result<Nic, Refusal> {
        let network = &self.networks[&network_id];
        let id = new.id.unwrap_or_else(Uuid::new_v4);
        let wanted =
            Wanted { mac: new.mac, ipv4: new.ipv4, ipv6: new.ipv6, ipv6_mode: new.ipv6_mode };
        let chosen = addresses::choose(network, wanted, None)?;
        let transport = name_interface(new.transport, id);
        if let Transport::Dgram(Some(at)) = &transport {
            self.reachable.check(at)?;
        }
        if !transport.is_vhost_user() && new.queue_pairs > 1 {
            let expected = "a vNIC that is not TRANSPORT_VHOST_USER has one";
            return Err(Refusal::invalid("queue_pairs", new.queue_pairs, expected));
        }
        let now = Timestamp::now();
        let nic = Nic {
            id,
            name: new.name.unwrap_or_else(|| self.choose_name("nic")),
            network_id,
            mac: chosen.mac,
            ipv4: chosen.ipv4,
            ipv6: chosen.ipv6,
            routed_ipv4: new.routed_ipv4,
            routed_ipv6: new.routed_ipv6,
            settings: new.settings,
            mtu: new.mtu,
            slaac: chosen.slaac,
            transport,
            queue_pairs: new.queue_pairs,
            labels: new.labels,
            description: new.description,
            boot: new.boot,
            metadata: None,
            socket: new.socket,
            asked: Some(new.asked),
            features: dataplane::features(new.queue_pairs),
            created_at: now,
            updated_at: now,
        };
        addresses::check_routes(network, &nic, None)?;
        self.check_public_routes(&nic)?;
        Ok(nic)
    }

    /// Takes a stored vNIC into the state.
    pub(super) fn adopt_nic(&mut self, model: Nic) {
        let network = self
            .networks
            .get_mut(&model.network_id)
            .expect("the store and the API check the network");
        network.put(&model);
        let place = self.dataplane.place(network.key);
        network.members.insert(place.port.slot, compile::member(&network.model, &model, place));
        self.nic_names.insert(model.name.clone(), model.id);
        self.by_port.insert(place.port, Owner::Nic(model.id));
        let state = NicState {
            model,
            place,
            state: proto::NicState::Created,
            told: proto::NicState::Created,
            is_untold: false,
            view: None,
            guest: Guest::default(),
            log: LogLimit::default(),
            leases: LogLimit::default(),
            attached: None,
            error: String::new(),
            blocked: None,
        };
        self.nics.insert(state.model.id, state);
    }

    /// Removes sockets of vNICs that are no more, and those that were not ready; anything else in
    /// the directory is left alone.
    pub(super) fn remove_stale_sockets(&self) {
        let entries = std::fs::read_dir(&self.socket_dir).into_iter().flatten().flatten();
        let sockets = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| FileTypeExt::is_socket(&kind)));
        for path in sockets.map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // As daemons before this one called those that were not ready.
            let plain = name.strip_suffix(".tmp").unwrap_or(&name);
            let id = plain.rsplit_once('.').filter(|(_, kind)| ["sock", "guest"].contains(kind));
            let id = id.and_then(|(id, _)| Uuid::try_parse(id).ok());
            // Only names that the daemon gives: the directory may hold files of others.
            let stale = id.is_some_and(|id| !self.nics.contains_key(&id) || name.ends_with(".tmp"))
                || dataplane::is_temporary(&name);
            if stale && let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a stale socket");
            }
        }
    }

    /// Makes the socket of a vNIC, or goes on with what another process of the daemon `exported`.
    pub(super) fn listen(&mut self, id: Uuid, exported: Option<Exported>) -> io::Result<()> {
        let path = self.socket_path(&self.nics[&id].model);
        let slot = self.slot(id, &Whose::Nic { id, guest: Vec::new() });
        let nic = self.nics.get_mut(&id).expect("only vNICs of the state listen");
        let network = &self.networks[&nic.model.network_id];
        let port = NewPort {
            place: nic.place,
            network: network.key,
            name: nic.model.name.to_string(),
            spec: spec(&network.model, &nic.model, path)?,
            slot,
        };
        nic.attached = Some(self.dataplane.attach(port, exported)?);
        if !nic.error.is_empty() {
            super::orphans::set_error(nic, String::new());
        }
        Ok(())
    }

    /// Takes a vNIC out of the state and removes its socket; its network is still to be published.
    /// The next answer waits until its VMM is disconnected.
    pub(super) fn forget_nic(&mut self, id: Uuid) {
        let Some(nic) = self.nics.remove(&id) else { return };
        self.nic_names.remove(&nic.model.name);
        self.by_port.remove(&nic.place.port);
        if let Some(network) = self.networks.get_mut(&nic.model.network_id) {
            network.members.remove(&nic.place.port.slot);
            network.lift(&nic.model);
            if let Some(attached) = &nic.attached {
                network.gone.add_all(attached.counters());
            }
            // Its slot may be given out at once: generations tell the old port from the new one.
            self.dataplane.release(network.key, nic.place);
        }
        self.closing.extend(nic.attached.map(Attached::stop));
        if nic.model.transport == Transport::Dgram(None) {
            // Of a VMM that has ended, most likely: nobody else takes it away.
            let left = locators::own_datagrams(&self.socket_path(&nic.model)).remote;
            std::fs::remove_file(left).ok();
        }
    }

    /// What is still to be waited for before a request is answered that has deleted vNICs.
    pub(super) fn take_closing(&mut self) -> Vec<Closing> {
        std::mem::take(&mut self.closing)
    }

    /// The id of a vNIC named by id or name, served or not.
    pub(super) fn find_any_nic(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = Uuid::try_parse(key).ok().or_else(|| self.nic_names.get(key).copied());
        id.filter(|id| self.stored_nic(*id).is_some())
            .ok_or_else(|| Refusal::not_found("vNIC", key))
    }

    /// The id of a vNIC that is served.
    pub(super) fn find_nic(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = self.find_any_nic(key)?;
        self.refuse_orphan(id).map(|()| id)
    }

    fn any_view(&self, id: Uuid) -> Option<proto::Nic> {
        let served = self.nics.get(&id).map(|nic| self.nic_view(nic));
        served.or_else(|| self.orphans.get(&id).map(|nic| self.orphan_view(nic)))
    }

    /// One vNIC.
    pub fn get_nic(&self, key: &str) -> Result<proto::Nic, Refusal> {
        let id = self.find_any_nic(key)?;
        self.any_view(id).ok_or_else(|| Refusal::not_found("vNIC", key))
    }

    /// vNICs, or those of one network, by name.
    pub fn list_nics(
        &self,
        request: &proto::ListNicsRequest,
    ) -> Result<proto::ListNicsResponse, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let page = Page::new(
            (request.page_size, &request.page_token),
            &request.name_prefix,
            &request.labels,
        )?;
        let view = |id| {
            let nic = self.stored_nic(id)?;
            let is_wanted = only.is_none_or(|only| only == nic.network_id);
            if is_wanted && page.wants(&nic.labels) { self.any_view(id) } else { None }
        };
        let (nics, next_page_token) = page.of(&self.nic_names, view);
        Ok(proto::ListNicsResponse { nics, next_page_token })
    }

    /// The network that a request confines itself to, if it does.
    pub(super) fn find_only(&self, network: &str) -> Result<Option<Uuid>, Refusal> {
        if network.is_empty() {
            return Ok(None);
        }
        // One that is not there may have orphans.
        let orphans = |id: &Uuid| self.orphans.values().any(|nic| nic.network_id == *id);
        match Uuid::try_parse(network).ok().filter(orphans) {
            Some(id) => Ok(Some(id)),
            None => self.find_network(network).map(Some),
        }
    }

    /// Changes what the request names.
    pub fn update_nic(
        &self,
        request: &proto::UpdateNicRequest,
        accounts: &Accounts,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        let id = self.find_nic(&request.id)?;
        let old = self.nics[&id].model.clone();
        check_etag(&old, &request.etag)?;
        let new = requests::changed_nic(&old, request, accounts.clone())?;
        if new.name != old.name {
            self.check_member_name(&new.name)?;
        }
        self.check_route_count(&new)?;
        self.check_security(&new)?;
        if !request.force {
            check_connected(&self.nics[&id], &new)?;
        }
        self.replace_nic(old, new, request.validate_only)
    }

    /// Changes how much a vNIC may carry.
    pub fn set_nic_limits(
        &self,
        request: &proto::SetNicLimitsRequest,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        self.change_stored_nic((&request.id, &request.etag), request.validate_only, |old| {
            requests::limited_nic(old, request)
        })
    }

    /// Changes a vNIC, which has this id or name and etag, to what `change` makes of it.
    pub(super) fn change_stored_nic(
        &self,
        (id, etag): (&str, &str),
        validate_only: bool,
        change: impl FnOnce(&Nic) -> Result<Nic, Refusal>,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        let old = self.nics[&self.find_nic(id)?].model.clone();
        check_etag(&old, etag)?;
        let new = change(&old)?;
        self.replace_nic(old, new, validate_only)
    }

    /// Puts a changed vNIC in the place of what it was, if its addresses are free and it is not to
    /// be checked only.
    fn replace_nic(
        &self,
        old: Nic,
        mut new: Nic,
        validate_only: bool,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        let state = &self.nics[&old.id];
        if new == old {
            return Ok(Decided::unchanged(self.nic_view(state)));
        }
        addresses::choose_again(&self.networks[&old.network_id], &mut new, Some(&old))?;
        if (&new.routed_ipv4, &new.routed_ipv6) != (&old.routed_ipv4, &old.routed_ipv6) {
            self.check_public_routes(&new)?;
        }
        // Else they stay as they are: VMMs refuse to come back to a device that offers less.
        if new.queue_pairs != old.queue_pairs {
            new.features = dataplane::features(new.queue_pairs);
        }
        new.updated_at = view::later(old.updated_at);
        if validate_only {
            return Ok(Decided::unchanged(self.changed_view(state, &new)));
        }
        Ok(Self::put_nic(Some(old), new))
    }

    /// Lets others open the socket of a vNIC, if that changes.
    pub(super) fn give_socket(&self, old: &Nic, new: &Nic) -> Result<(), Refusal> {
        match &self.nics[&old.id].attached {
            Some(attached) if old.socket != new.socket => {
                let given = attached.set_access(access(&new.socket));
                given.map_err(|error| socket_refused(&new.socket, error))
            }
            _ => Ok(()),
        }
    }

    /// Puts a changed vNIC in the place of what it was.
    pub(super) fn change_nic(&mut self, old: &Nic, new: Nic) {
        let (id, network_id) = (new.id, new.network_id);
        self.nic_names.remove(&old.name);
        self.nic_names.insert(new.name.clone(), id);
        if let (Some(network), Some(nic)) =
            (self.networks.get_mut(&network_id), self.nics.get_mut(&id))
        {
            network.lift(old);
            network.put(&new);
            let member = compile::member(&network.model, &new, nic.place);
            network.members.insert(nic.place.port.slot, member);
            if let Some(attached) = &nic.attached {
                attached.set_device(device(&network.model, &new));
            }
            nic.guest.outlives(old, &new);
            nic.model = new;
        }
        self.unpublished.insert(network_id);
        // What kept its socket from being made may be what has changed.
        if self.nics[&id].attached.is_none() {
            self.open_socket_or_say(id);
        }
        self.tell_nic(id);
    }

    /// Deletes a vNIC, served or not.
    pub fn delete_nic(
        &self,
        request: &proto::DeleteNicRequest,
    ) -> Result<Decided<proto::DeleteNicResponse>, Refusal> {
        let id = self.find_any_nic(&request.id)?;
        let nic = self.stored_nic(id).expect("it was found");
        check_etag(nic, &request.etag)?;
        let state = self.nics.get(&id).map(|nic| nic.state);
        if request.unless_active && state.is_some_and(|state| state.is_connected()) {
            return Err(Refusal::Connected {
                name: nic.name.to_string(),
                what: "its VM would lose its network".into(),
                remedy: "leave out unless_active",
            });
        }
        let with = self.nat.of_nic(id);
        if !request.force {
            let counts =
                [(with.forwards.len(), "forward"), (with.floating_ips.len(), "floating IP")];
            Refusal::unless_empty("vNIC", &nic.name, &counts)?;
        }
        let response = proto::DeleteNicResponse { deleted: true };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        Ok(Decided::new(Change::DeleteNic { id, with }, move |_| response))
    }

    /// Puts the deletion of a vNIC in force, served or not.
    pub(super) fn apply_nic_deletion(&mut self, id: Uuid, with: &Dependants) {
        self.forget_dependants(with);
        let Some(nic) = self.stored_nic(id) else { return };
        let (name, network_id) = (nic.name.clone(), nic.network_id);
        let was_served = self.forget_orphan(id).is_none();
        if was_served {
            self.forget_nic(id);
            self.unpublished.insert(network_id);
        }
        tracing::info!(nic = name.as_str(), %id, "vNIC deleted");
        self.tell_nic_gone(id, network_id);
        // That of an orphan is not there, or has not counted it.
        if was_served {
            self.tell_network(network_id);
        }
    }
}

/// What a vNIC's device is, as its VMM is told at its next connection.
pub(super) fn device(network: &Network, nic: &Nic) -> Device {
    Device {
        features: nic.features,
        queue_pairs: nic.queue_pairs,
        mac: nic.mac,
        mtu: nic.mtu_in(network),
    }
}

/// Returns a transport whose interface has a name, which follows from its vNIC's `id`.
fn name_interface(transport: Transport, id: Uuid) -> Transport {
    let [a, b, c, d, ..] = *id.as_bytes();
    let chosen = || format!("mv-{:08x}", u32::from_be_bytes([a, b, c, d]));
    match transport {
        Transport::Tap(name) if name.is_empty() => Transport::Tap(chosen()),
        Transport::Packet(name) if name.is_empty() => Transport::Packet(chosen()),
        named => named,
    }
}

/// Returns what a vNIC's guest is to be reached by.
fn spec(network: &Network, nic: &Nic, path: PathBuf) -> io::Result<PortSpec> {
    let access = access(&nic.socket);
    let single = |path, framing| PortSpec::Single(single::Spec { path, framing, access });
    Ok(match &nic.transport {
        Transport::VhostUser => {
            PortSpec::VhostUser(vhost_user::Spec { path, access, device: device(network, nic) })
        }
        Transport::Stream => single(path, Framing::Stream(Prefix::U32)),
        Transport::Seqpacket => single(path, Framing::Packets),
        Transport::Tap(interface) => {
            // What a container finds in it is what its vNIC has: it need not know.
            let (mac, mtu) = (Some(nic.mac), Some(nic.mtu_in(network)));
            PortSpec::Tap(tap::Spec {
                interface: interface.clone(),
                mac,
                mtu,
                ..Default::default()
            })
        }
        Transport::Dgram(None) => {
            let Dgram { local, remote, .. } = locators::own_datagrams(&path);
            PortSpec::Dial(dial::Spec::Datagrams { local, access, remote })
        }
        Transport::Dgram(Some(at)) => locators::spec(at, "")?,
        Transport::Vde => PortSpec::VdeSingle(vde::switch::Spec {
            directory: path,
            access,
            directory_mode: None,
            max_clients: 1,
        }),
        Transport::Packet(interface) => PortSpec::Dial(dial::Spec::Guest(interface.clone())),
    })
}

fn access(socket: &SocketAccess) -> Access {
    Access {
        owner: socket.owner.as_ref().map(|owner| owner.number),
        group: socket.group.as_ref().map(|group| group.number),
        mode: socket.mode,
    }
}

/// Why a TAP device could not be made.
fn tap_refused(interface: &str, error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refusal::Forbidden(format!(
            "{interface}: {error}: to make a TAP device the daemon needs CAP_NET_ADMIN; or make \
             one for its user: ip tuntap add {interface} mode tap user USER"
        )),
        io::ErrorKind::ResourceBusy => {
            Refusal::InUse(format!("{interface}: {error}: another process has it"))
        }
        _ => Refusal::Unready(format!("{interface}: {error}")),
    }
}

/// Why a socket could not be made, or given to others.
fn socket_refused(socket: &SocketAccess, error: io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::AddrInUse {
        return Refusal::InUse(error.to_string());
    }
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Refusal::Socket(error);
    }
    let name = |account: &Option<crate::model::Account>| {
        account.as_ref().map_or("(default)".to_owned(), |account| account.asked.clone())
    };
    Refusal::NotPermitted {
        what: format!(
            "the socket cannot be given to socket_owner {:?} and socket_group {:?}",
            name(&socket.owner),
            name(&socket.group)
        ),
        remedy: "name a group that the daemon's user is a member of, and no other owner; or let \
                 the daemon have CAP_CHOWN",
        source: error,
    }
}

fn check_etag(nic: &Nic, expected: &str) -> Result<(), Refusal> {
    Refusal::unless_etag("vNIC", &nic.name, expected, view::etag(nic.updated_at))
}

/// Refuses to change what a connected VMM, or its guest, was told once and does not ask for again.
fn check_connected(nic: &NicState, new: &Nic) -> Result<(), Refusal> {
    if !nic.state.is_connected() {
        return Ok(());
    }
    let old = &nic.model;
    // Not the MTU, which DHCP and router advertisements tell anew.
    let disturbing = [
        ("mac_address", old.mac != new.mac),
        ("ipv4_address", old.ipv4 != new.ipv4),
        ("ipv6_address", old.ipv6 != new.ipv6),
        ("addressing", old.settings.addressing != new.settings.addressing),
        ("queue_pairs", old.queue_pairs != new.queue_pairs),
    ];
    let changed = disturbing.iter().filter(|(_, changed)| *changed).map(|(field, _)| *field);
    let changed: Vec<_> = changed.collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Refusal::Connected {
        name: old.name.to_string(),
        what: format!("its VM would not learn of the new {}", changed.join(", ")),
        remedy: "set force and let it connect and ask again",
    })
}

/// As for networks: the request that made it, or the like of it.
fn is_same(existing: &Nic, network_id: Uuid, new: &NewNic) -> bool {
    if let Some(asked) = existing.asked {
        return asked == new.asked;
    }
    existing.network_id == network_id
        // What was not asked for was chosen: any value will do.
        && new.name.as_ref().is_none_or(|name| *name == existing.name)
        && new.mac.is_none_or(|mac| mac == existing.mac)
        && (new.ipv4.is_none() || new.ipv4 == existing.ipv4)
        && (new.ipv6.is_none() || new.ipv6 == existing.ipv6)
        && existing.routed_ipv4 == new.routed_ipv4
        && existing.routed_ipv6 == new.routed_ipv6
        && existing.settings.in_force() == new.settings.in_force()
        && existing.mtu == new.mtu
        && existing.slaac.is_some() == (new.ipv6_mode == super::choices::Ipv6Mode::Slaac)
        && existing.queue_pairs == new.queue_pairs
        && (&existing.labels, &existing.description) == (&new.labels, &new.description)
        && (&existing.boot, &existing.socket) == (&new.boot, &new.socket)
}
