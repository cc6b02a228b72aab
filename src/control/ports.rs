//! Ports: created, found, changed and deleted.
//!
//! A port that listens is one object and, of the data plane, a port more for each connection: these
//! are members of the network, the listener is not.

use super::{
    Control, Limits, Owner, QuiescedPort, RestoreError, Whose,
    change::Decided,
    choices::ROLES,
    clients::Client,
    fields::{self, optional, parse, uuid},
    locators,
    mask::Mask,
    pages::Page,
    refusal::Refusal,
    requests::fingerprint,
    view, watch,
};
use crate::{
    dataplane::{Attached, Blocking, Exported, Monitor, NewPort, Placement, PortSpec, PortState},
    locator::Locator,
    log_limit::{LogLimit, Said},
    model::{Impairments, Labels, Name, NetworkKind, Port, PortSettings, TaggedNetwork},
    proto,
    store::{Change, Put},
};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How soon a port that could not be opened is tried again.
// Soon for people, and no load.
const RETRY: Duration = Duration::from_secs(5);

/// A port, as it is served.
#[derive(Debug)]
pub(super) struct PortEntry {
    pub(super) model: Port,
    pub(super) place: Placement,
    pub(super) state: proto::PortState,
    /// The state that was told of last, as one that lasts.
    told: proto::PortState,
    /// Among [`Control::untold`].
    is_untold: bool,
    /// Why it is in its state; empty where that is as it should be.
    pub(super) error: Arc<str>,
    /// Why nothing of it is carried, where that was said last.
    pub(super) blocked: Option<Blocking>,
    /// What watchers are told of it. They share it until it changes.
    pub(super) view: Option<Arc<proto::Port>>,
    pub(super) log: LogLimit,
    /// Of events of who comes and goes: they are to leave lines of the log to the port itself.
    pub(super) peers: LogLimit,
    /// Absent while it is being made, and where it cannot be.
    pub(super) attached: Option<Attached>,
    /// Who is connected, by the slot of the port that each is.
    pub(super) clients: BTreeMap<u32, Client>,
}

impl PortEntry {
    /// Returns where its counters are, and those of who is connected to it.
    pub(super) fn monitors(&self) -> Vec<Monitor> {
        let clients = self.clients.values().map(|client| &client.attached);
        // Its own are those of who is gone, too.
        self.attached.iter().chain(clients).map(Attached::monitor).cloned().collect()
    }

    /// Returns its place, and those of who is connected to it.
    pub(super) fn places(&self) -> Vec<Placement> {
        self.clients.values().map(|client| client.place).chain([self.place]).collect()
    }

    /// Returns those that are members of networks.
    fn members(&self) -> Vec<Placement> {
        let own = (!locators::listens(&self.model.locator)).then_some(self.place);
        self.clients.values().map(|client| client.place).chain(own).collect()
    }

    /// Returns the ways to what it serves, and to who is connected to it.
    pub(super) fn quiesced(&self) -> impl Iterator<Item = QuiescedPort> {
        let id = self.model.id;
        let port = self.attached.iter().map(move |attached| QuiescedPort {
            whose: Whose::Port { id },
            exporter: attached.exporter(),
        });
        let clients = self.clients.values().map(move |client| QuiescedPort {
            whose: client.whose(id),
            exporter: client.attached.exporter(),
        });
        port.chain(clients)
    }
}

/// A port to be made.
struct NewRequest {
    id: Option<Uuid>,
    name: Option<Name>,
    vlans: Vec<TaggedNetwork>,
    locator: Locator,
    settings: PortSettings,
    labels: Labels,
    description: String,
    asked: Uuid,
}

impl NewRequest {
    fn new(
        request: &proto::CreatePortRequest,
        network: Uuid,
        vlans: impl FnOnce(&Locator) -> Result<Vec<TaggedNetwork>, Refusal>,
    ) -> Result<Self, Refusal> {
        if request.locator.is_empty() {
            let expected = "required, like stream-listen://127.0.0.1:9999";
            return Err(Refusal::invalid("locator", "", expected));
        }
        let new = Self {
            id: optional("id", &request.id, uuid)?,
            name: optional("name", &request.name, parse)?,
            vlans: Vec::new(),
            locator: parse("locator", &request.locator)?,
            settings: PortSettings {
                role: ROLES.chosen("role", request.role)?,
                mac_limit: fields::mac_limit(request.mac_limit)?,
                protected: request.protected,
                limit_from: fields::rate_limit("limit_from", request.limit_from)?,
                limit_to: fields::rate_limit("limit_to", request.limit_to)?,
                impairments: fields::impairments(
                    request.impairments.as_ref(),
                    Impairments::default(),
                )?,
            },
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            asked: Uuid::nil(),
        };
        let vlans = vlans(&new.locator)?;
        // As of vNICs: from parsed values, without the id, by which it is found.
        let asked = fingerprint(&proto::CreatePortRequest {
            network_id: network.to_string(),
            locator: new.locator.to_string(),
            limit_from: view::rate_limit(new.settings.limit_from),
            limit_to: view::rate_limit(new.settings.limit_to),
            vlans: vlans.iter().map(view::tagged).collect(),
            impairments: view::asked_lines(&new.settings.impairments),
            id: String::new(),
            validate_only: false,
            ..request.clone()
        });
        Ok(Self { asked, vlans, ..new })
    }
}

/// Returns `old` as the request would leave it; its time of change apart.
fn changed(
    old: &Port,
    request: &proto::UpdatePortRequest,
    vlans: impl FnOnce() -> Result<Vec<TaggedNetwork>, Refusal>,
) -> Result<Port, Refusal> {
    let mask = Mask::new(
        request.update_mask.as_ref(),
        &[],
        &[
            ("name", !request.name.is_empty()),
            ("role", request.role != 0),
            ("mac_limit", request.mac_limit != 0),
            ("limit_from", request.limit_from.is_some()),
            ("limit_to", request.limit_to.is_some()),
            ("protected", request.protected),
            ("vlans", !request.vlans.is_empty()),
            ("labels", !request.labels.is_empty()),
            ("description", !request.description.is_empty()),
            ("impairments", request.impairments.is_some()),
        ],
    )?;
    let mut new = old.clone();
    let settings = &mut new.settings;
    if mask.names("role") {
        settings.role = ROLES.chosen("role", request.role)?;
    }
    if mask.names("mac_limit") {
        settings.mac_limit = fields::mac_limit(request.mac_limit)?;
    }
    if mask.names("limit_from") {
        settings.limit_from = fields::rate_limit("limit_from", request.limit_from)?;
    }
    if mask.names("limit_to") {
        settings.limit_to = fields::rate_limit("limit_to", request.limit_to)?;
    }
    if mask.names("impairments") {
        let lines = &mut settings.impairments;
        *lines = fields::impairments(request.impairments.as_ref(), *lines)?;
    }
    if mask.names("protected") {
        settings.protected = request.protected;
    }
    if mask.names("vlans") {
        new.vlans = vlans()?;
    }
    if mask.names("name") {
        new.name = parse("name", &request.name)?;
    }
    if mask.names("labels") {
        new.labels = fields::labels(&request.labels)?;
    }
    if mask.names("description") {
        new.description = fields::description(&request.description)?;
    }
    Ok(new)
}

impl Control {
    /// Creates a port, or finds that this very request was carried out before.
    pub fn create_port(
        &self,
        request: &proto::CreatePortRequest,
    ) -> Result<Decided<proto::Port>, Refusal> {
        if request.network_id.is_empty() {
            return Err(Refusal::invalid("network_id", "", "required: a network's id or name"));
        }
        let network_id = self.find_network(&request.network_id)?;
        let vlans = |locator: &Locator| self.parse_vlans(&request.vlans, locator);
        let new = NewRequest::new(request, network_id, vlans)?;
        if let Some(existing) = new.id.and_then(|id| self.ports.get(&id)) {
            return if existing.model.asked == new.asked {
                Ok(Decided::unchanged(self.port_view(existing)))
            } else {
                let owner = format!("port {}, made by another request", existing.model.name);
                Err(Refusal::taken("id", existing.model.id, owner))
            };
        }
        if self.networks[&network_id].model.kind == NetworkKind::Routed {
            let expected = "ports belong to switched networks";
            return Err(Refusal::invalid("network_id", &request.network_id, expected));
        }
        new.name.as_ref().map_or(Ok(()), |name| self.check_member_name(name))?;
        self.reachable.check(&new.locator)?;
        locators::refuse_names_of_nics(&new.locator, &self.socket_dir)?;
        // What this daemon cannot make is not stored.
        self.reachable
            .spec(&new.locator, &new.description)
            .map_err(|error| locators::refused(&new.locator, error))?;
        Limits::check("port", self.ports.len(), self.limits.ports, "max-ports")?;
        let now = Timestamp::now();
        let port = Port {
            id: new.id.unwrap_or_else(Uuid::new_v4),
            name: new.name.unwrap_or_else(|| self.choose_name("port")),
            network_id,
            vlans: new.vlans,
            locator: new.locator,
            settings: new.settings,
            labels: new.labels,
            description: new.description,
            asked: new.asked,
            created_at: now,
            updated_at: now,
        };
        if request.validate_only {
            return Ok(Decided::unchanged(self.new_port_view(&port)));
        }
        Ok(Self::put_port(None, port))
    }

    fn put_port(old: Option<Port>, new: Port) -> Decided<proto::Port> {
        let id = new.id;
        let change = Change::PutPort(Put { old, new }.into());
        Decided::new(change, move |control| control.port_view(&control.ports[&id]))
    }

    /// Takes a stored port into the state.
    pub(super) fn adopt_port(&mut self, model: Port) {
        // The store and the API check the network.
        let place = self.dataplane.place(self.networks[&model.network_id].key);
        self.enlist(&model, place);
        self.port_names.insert(model.name.clone(), model.id);
        self.by_port.insert(place.port, Owner::Port(model.id));
        let entry = PortEntry {
            model,
            place,
            state: proto::PortState::Down,
            told: proto::PortState::Down,
            is_untold: false,
            error: "".into(),
            blocked: None,
            view: None,
            log: LogLimit::default(),
            peers: LogLimit::default(),
            attached: None,
            clients: BTreeMap::new(),
        };
        self.ports.insert(entry.model.id, entry);
    }

    /// Opens a port that is stored. One that cannot be is refused, and deleted.
    pub(super) fn begin_port(&mut self, port: &Port) -> Result<(), Refusal> {
        let id = port.id;
        self.unpublished.extend(port.networks());
        if let Err(error) = self.open_port(id, None) {
            tracing::warn!(%id, %error, "a port cannot be made: refused");
            self.forget_port(id);
            port.networks().for_each(|network| self.tell_network(network));
            self.commit(&[&Change::DeletePort(id)])?;
            return Err(locators::refused(&port.locator, error));
        }
        tracing::info!(port = port.name.as_str(), %id, locator = %port.locator, "port created");
        self.tell_port(id);
        port.networks().for_each(|network| self.tell_network(network));
        Ok(())
    }

    /// Opens what a port is made of, or goes on with what another process of the daemon `exported`.
    pub(super) fn open_port(&mut self, id: Uuid, exported: Option<Exported>) -> io::Result<()> {
        let slot = self.slot(id, &Whose::Port { id });
        let entry = self.ports.get_mut(&id).expect("only ports of the state are opened");
        // The flags may be others than when it was asked for; a hand-over changes none.
        self.reachable
            .check(&entry.model.locator)
            .map_err(|refusal| io::Error::new(io::ErrorKind::PermissionDenied, refusal))?;
        let mut spec = self.reachable.spec(&entry.model.locator, &entry.model.description)?;
        if let PortSpec::Slirp(slirp) = &mut spec {
            slirp.guests = self.egress.guests();
        }
        let network = &self.networks[&entry.model.network_id];
        let new = NewPort {
            place: entry.place,
            network: network.key,
            name: entry.model.name.to_string(),
            spec,
            slot,
        };
        entry.attached = Some(self.dataplane.attach(new, exported)?);
        // It listens now; of others their endpoint says when the other end is there.
        if locators::listens(&entry.model.locator) {
            entry.state = proto::PortState::Listening;
        }
        (entry.error, entry.view) = ("".into(), None);
        Ok(())
    }

    /// Goes on with a port that another process of the daemon `exported`. One that is not stored is
    /// let go.
    pub(super) fn take_port_over(
        &mut self,
        id: Uuid,
        exported: Exported,
    ) -> Result<(), RestoreError> {
        let Some(entry) = self.ports.get(&id) else { return Ok(()) };
        let name = entry.model.name.clone();
        self.open_port(id, Some(exported)).map_err(|source| RestoreError::Port { name, source })
    }

    /// Opens a port; where that fails, the port says so, and it is tried again.
    fn open_port_or_say(&mut self, id: Uuid) {
        let opened = self.open_port(id, None);
        let Some(entry) = self.ports.get_mut(&id) else { return };
        if let Err(error) = opened {
            let now = Instant::now();
            if let Some(Said { unsaid }) = entry.log.failure(&error.to_string(), now) {
                tracing::error!(port = %entry.model.name, %id, %error, unsaid, "port not served");
            }
            (entry.state, entry.error) = (proto::PortState::Error, error.to_string().into());
            entry.view = None;
            self.retry_ports = Some(now + RETRY);
        }
    }

    /// Opens all ports that could not be opened before, or that none has tried to open yet.
    pub(super) fn open_ports(&mut self) {
        self.retry_ports = None;
        let closed = self.ports.iter().filter(|(_, port)| port.attached.is_none());
        let closed: Vec<Uuid> = closed.map(|(id, _)| *id).collect();
        for id in closed {
            self.open_port_or_say(id);
            // Whether it is served now or why it is not.
            self.tell_port(id);
        }
    }

    /// Takes a port and who is connected to it out of the state; its networks are still to be
    /// published.
    pub(super) fn forget_port(&mut self, id: Uuid) {
        let Some(entry) = self.ports.remove(&id) else { return };
        self.port_names.remove(&entry.model.name);
        self.by_port.remove(&entry.place.port);
        let clients = entry.clients.into_values();
        let clients: Vec<_> = clients.map(|client| (client.place, client.attached)).collect();
        let places: Vec<_> = clients.iter().map(|(place, _)| *place).chain([entry.place]).collect();
        for network in entry.model.networks() {
            self.strike(id, network, &places);
        }
        let home = self.networks[&entry.model.network_id].key;
        for place in places {
            self.by_port.remove(&place.port);
            self.dataplane.release(home, place);
        }
        let attached = clients.into_iter().map(|(_, attached)| attached).chain(entry.attached);
        let attached: Vec<_> = attached.collect();
        let gone = &self.networks[&entry.model.network_id].gone;
        attached.iter().for_each(|attached| gone.add_all(attached.counters()));
        self.closing.extend(attached.into_iter().map(Attached::stop));
    }

    /// Returns the id of a port named by id or name.
    pub(super) fn find_port(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = Uuid::try_parse(key).ok().or_else(|| self.port_names.get(key).copied());
        id.filter(|id| self.ports.contains_key(id)).ok_or_else(|| Refusal::not_found("port", key))
    }

    /// Returns one port.
    pub fn get_port(&self, key: &str) -> Result<proto::Port, Refusal> {
        self.find_port(key).map(|id| self.port_view(&self.ports[&id]))
    }

    /// Returns ports, or those of one network, by name.
    pub fn list_ports(
        &self,
        request: &proto::ListPortsRequest,
    ) -> Result<proto::ListPortsResponse, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let page = Page::new(
            (request.page_size, &request.page_token),
            &request.name_prefix,
            &request.labels,
        )?;
        let view = |id| {
            let entry = self.ports.get(&id)?;
            let is_wanted = only.is_none_or(|only| entry.model.is_in(only));
            (is_wanted && page.wants(&entry.model.labels)).then(|| self.port_view(entry))
        };
        let (ports, next_page_token) = page.of(&self.port_names, view);
        Ok(proto::ListPortsResponse { ports, next_page_token })
    }

    /// Changes what the request names.
    pub fn update_port(
        &self,
        request: &proto::UpdatePortRequest,
    ) -> Result<Decided<proto::Port>, Refusal> {
        let id = self.find_port(&request.id)?;
        let entry = &self.ports[&id];
        let old = entry.model.clone();
        Refusal::unless_etag("port", &old.name, &request.etag, view::etag(old.updated_at))?;
        let vlans = || self.parse_vlans(&request.vlans, &old.locator);
        let mut new = changed(&old, request, vlans)?;
        if new == old {
            return Ok(Decided::unchanged(self.port_view(entry)));
        }
        if new.name != old.name {
            self.check_member_name(&new.name)?;
        }
        new.updated_at = view::later(old.updated_at);
        if request.validate_only {
            return Ok(Decided::unchanged(self.changed_port_view(entry, &new)));
        }
        Ok(Self::put_port(Some(old), new))
    }

    /// Puts a changed port in the place of what it was.
    pub(super) fn change_port(&mut self, old: &Port, new: Port) {
        let id = new.id;
        self.port_names.remove(&old.name);
        self.port_names.insert(new.name.clone(), id);
        let Some(entry) = self.ports.get_mut(&id) else { return };
        entry.model = new.clone();
        let (place, places) = (entry.place, entry.places());
        let left: Vec<_> = old.networks().filter(|network| !new.is_in(*network)).collect();
        left.iter().for_each(|network| self.strike(id, *network, &places));
        self.enlist(&new, place);
        self.follow_port(id);
        let joined = new.networks().filter(|network| !old.is_in(*network));
        // They have other members than before.
        joined.chain(left.iter().copied()).for_each(|network| self.tell_network(network));
        if !left.is_empty() {
            // Without watchers there is nobody to tell.
            self.port_events.send(watch::Change::left(id, left)).ok();
        }
        self.tell_port(id);
    }

    /// Compiles a port and who is connected to it anew.
    pub(super) fn follow_port(&mut self, id: Uuid) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        entry.view = None;
        let (port, places) = (entry.model.clone(), entry.members());
        places.into_iter().for_each(|place| self.join(&port, place));
    }

    /// Deletes a port.
    pub fn delete_port(
        &self,
        request: &proto::DeletePortRequest,
    ) -> Result<Decided<proto::DeletePortResponse>, Refusal> {
        let id = self.find_port(&request.id)?;
        let port = &self.ports[&id].model;
        Refusal::unless_etag("port", &port.name, &request.etag, view::etag(port.updated_at))?;
        let response = proto::DeletePortResponse { deleted: true };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        Ok(Decided::new(Change::DeletePort(id), move |_| response))
    }

    /// Puts the deletion of a port in force.
    pub(super) fn apply_port_deletion(&mut self, id: Uuid) {
        let Some(entry) = self.ports.get(&id) else { return };
        let model = entry.model.clone();
        self.forget_port(id);
        tracing::info!(port = model.name.as_str(), %id, "port deleted");
        self.tell_port_gone(id, model.networks().collect());
        model.networks().for_each(|network| self.tell_network(network));
    }

    /// Takes over what a port's endpoint reports.
    pub(super) fn port_reported(&mut self, id: Uuid, state: PortState, why: Arc<str>) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        entry.state = match state {
            PortState::Idle => proto::PortState::Down,
            PortState::Active => proto::PortState::Up,
            PortState::Listening => proto::PortState::Listening,
            PortState::Blocked(_) => proto::PortState::Blocked,
            PortState::Failed => proto::PortState::Error,
            // Said of a client alone.
            PortState::Left => return,
        };
        (entry.error, entry.blocked, entry.view) = (why, state.blocked(), None);
        if entry.state != entry.told && !std::mem::replace(&mut entry.is_untold, true) {
            self.untold.push(Instant::now(), Owner::Port(id));
        }
    }

    /// Tells watchers of the state of a port, if it has lasted.
    pub(super) fn tell_port_state(&mut self, id: Uuid, now: Instant) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        entry.is_untold = false;
        if std::mem::replace(&mut entry.told, entry.state) == entry.state {
            return;
        }
        if let Some(Said { unsaid }) = entry.log.line(now) {
            let (port, state, why) = (entry.model.name.as_str(), entry.state.word(), &entry.error);
            tracing::info!(port, state, why = &**why, unsaid, "port changed");
            self.note_port_state(id, Said { unsaid });
        }
        self.tell_port(id);
    }

    pub(super) fn tell_port(&mut self, id: Uuid) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        entry.view = None;
        let networks = entry.model.networks().collect();
        let object = self.shared_port_view(id);
        // Without watchers there is nobody to tell.
        self.port_events.send(watch::Change::new(id, networks, object)).ok();
    }

    pub(super) fn tell_port_gone(&self, id: Uuid, networks: Vec<Uuid>) {
        self.port_events.send(watch::Change::new(id, networks, None)).ok();
    }

    fn port_view(&self, entry: &PortEntry) -> proto::Port {
        self.changed_port_view(entry, &entry.model)
    }

    /// Returns a port as it would be if `model` took the place of its own.
    fn changed_port_view(&self, entry: &PortEntry, model: &Port) -> proto::Port {
        let attachments = entry.clients.values().map(|client| proto::Attachment {
            remote: client.remote.clone(),
            since: client.since.to_string(),
            blocked: view::string(client.blocked.map(Blocking::why)),
        });
        proto::Port {
            state: entry.state.into(),
            error: entry.error.to_string(),
            attachments: attachments.collect(),
            refused_clients: entry.attached.as_ref().map_or(0, Attached::refused_clients),
            ..self.new_port_view(model)
        }
    }

    fn shared_port_view(&mut self, id: Uuid) -> Option<Arc<proto::Port>> {
        let entry = self.ports.get(&id)?;
        let view = entry.view.clone().unwrap_or_else(|| Arc::new(self.port_view(entry)));
        self.ports.get_mut(&id)?.view = Some(Arc::clone(&view));
        Some(view)
    }

    /// Returns the ports now, of one network if it is given, and every change from now on.
    pub(super) fn watch_ports(
        &mut self,
        request: &proto::WatchPortsRequest,
    ) -> Result<watch::Watch<proto::Port>, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let ids: Vec<_> = self.port_names.values().copied().collect();
        let present = ids.into_iter().filter_map(|id| {
            let port = &self.ports.get(&id)?.model;
            if only.is_some_and(|only| !port.is_in(only)) {
                return None;
            }
            let networks = port.networks().collect();
            let object = Some(self.shared_port_view(id)?);
            Some(watch::Change::new(id, networks, object))
        });
        let present = present.collect();
        Ok(watch::Watch { present, changes: self.port_events.subscribe(), network: only })
    }
}
