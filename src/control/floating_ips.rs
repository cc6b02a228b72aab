//! Floating IPs: created, found, changed and deleted.

use super::{
    Control,
    change::Decided,
    egress::WayOut,
    fields::{self, address, optional, uuid},
    mask::Mask,
    pages::Page,
    refusal::Refusal,
    requests::fingerprint,
    view,
};
use crate::{
    model::FloatingIp,
    proto,
    store::{Change, Put},
};
use ipnet::IpNet;
use jiff::Timestamp;
use std::net::IpAddr;
use uuid::Uuid;

/// Floating IPs that there may be.
const MAX_FLOATING_IPS: usize = 4096;

impl Control {
    /// Creates a floating IP, or finds that this very request was carried out before.
    pub fn create_floating_ip(
        &self,
        request: &proto::CreateFloatingIpRequest,
    ) -> Result<Decided<proto::FloatingIp>, Refusal> {
        let id = optional("id", &request.id, uuid)?;
        if request.address.is_empty() {
            return Err(Refusal::invalid("address", "", "required, like 203.0.113.7"));
        }
        let address = address("address", &request.address)?;
        let nic = self.find_target(&request.nic_id, address)?;
        let asked = fingerprint(&proto::CreateFloatingIpRequest {
            address: address.to_string(),
            nic_id: nic.id.to_string(),
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            ..Default::default()
        });
        if let Some(existing) = id.and_then(|id| self.nat.floating_ip(id)) {
            return if existing.asked == asked {
                Ok(Decided::unchanged(self.floating_ip_view(existing)))
            } else {
                let owner = format!("floating IP {}, made by another request", existing.address);
                Err(Refusal::taken("id", existing.id, owner))
            };
        }
        if matches!(self.egress_way(), WayOut::User(_)) {
            let text = "a floating IP needs a way out by the host's routing: --egress tun";
            return Err(Refusal::Unready(text.into()));
        }
        self.check_reached(nic.id)?;
        self.check_floating(address)?;
        let now = Timestamp::now();
        let new = FloatingIp {
            id: id.unwrap_or_else(Uuid::new_v4),
            address,
            nic_id: nic.id,
            network_id: nic.network_id,
            labels: request.labels.clone(),
            description: request.description.clone(),
            asked,
            created_at: now,
            updated_at: now,
        };
        if request.validate_only {
            return Ok(Decided::unchanged(self.floating_ip_view(&new)));
        }
        Ok(Self::decide_floating_ip(None, new))
    }

    fn decide_floating_ip(old: Option<FloatingIp>, new: FloatingIp) -> Decided<proto::FloatingIp> {
        let answer = new.clone();
        let change = Change::PutFloatingIp(Put { old, new }.into());
        Decided::new(change, move |control| control.floating_ip_view(&answer))
    }

    /// Refuses an address that cannot be one, or that somebody has.
    fn check_floating(&self, address: IpAddr) -> Result<(), Refusal> {
        let there = self.nat.floating_ips().len();
        if there >= MAX_FLOATING_IPS {
            let text = format!("there are {there} floating IPs, which is the most");
            return Err(Refusal::Exhausted(text));
        }
        self.check_of_the_world("address", address)?;
        let host = IpNet::from(address);
        let owner = self.nat.owner_within(host).or_else(|| self.balancers.owner_within(host));
        if let Some(owner) = owner {
            return Err(Refusal::taken("address", address, owner));
        }
        match self.holder(address)? {
            None => Ok(()),
            Some(holder) => Err(Refusal::taken("address", address, holder)),
        }
    }

    /// Puts a floating IP that is created or moved in force.
    pub(super) fn apply_floating_ip(&mut self, Put { old, new }: Put<FloatingIp>) {
        let (address, nic) = (new.address, new.nic_id);
        // Their guests are told.
        self.unpublished.extend(old.iter().chain([&new]).map(|it| it.network_id));
        self.nat.put_floating_ip(new);
        let what = match old.map(|old| old.nic_id == nic) {
            None => "floating IP created",
            Some(false) => "floating IP moved",
            Some(true) => "floating IP updated",
        };
        let nic = self.nics.get(&nic).map_or(nic.to_string(), |nic| nic.model.name.to_string());
        tracing::info!(%address, nic, "{what}");
    }

    /// Takes a floating IP out of the state.
    pub(super) fn forget_floating_ip(&mut self, id: Uuid) {
        if let Some(floating_ip) = self.nat.remove_floating_ip(id) {
            self.egress_changed();
            self.unpublished.insert(floating_ip.network_id);
            tracing::info!(address = %floating_ip.address, "floating IP deleted");
        }
    }

    /// Returns a floating IP named by id or address.
    fn find_floating_ip(&self, key: &str) -> Result<&FloatingIp, Refusal> {
        let of_address = |key: &str| {
            let address = key.parse::<IpAddr>().ok()?.to_canonical();
            self.nat.addresses().get(&address.to_string()).copied()
        };
        let id = Uuid::try_parse(key).ok().or_else(|| of_address(key));
        let found = id.and_then(|id| self.nat.floating_ip(id));
        found.ok_or_else(|| Refusal::not_found("floating IP", key))
    }

    /// Returns one floating IP.
    pub fn get_floating_ip(&self, key: &str) -> Result<proto::FloatingIp, Refusal> {
        self.find_floating_ip(key).map(|floating_ip| self.floating_ip_view(floating_ip))
    }

    /// Returns floating IPs, or those of one network, by address.
    pub fn list_floating_ips(
        &self,
        request: &proto::ListFloatingIpsRequest,
    ) -> Result<proto::ListFloatingIpsResponse, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let page = Page::new((request.page_size, &request.page_token), "", &request.labels)?;
        let view = |id| {
            let floating_ip = self.nat.floating_ip(id)?;
            let is_wanted = only.is_none_or(|only| floating_ip.network_id == only);
            (is_wanted && page.wants(&floating_ip.labels))
                .then(|| self.floating_ip_view(floating_ip))
        };
        let (floating_ips, next_page_token) = page.of(self.nat.addresses(), view);
        Ok(proto::ListFloatingIpsResponse { floating_ips, next_page_token })
    }

    /// Changes what the request names.
    pub fn update_floating_ip(
        &self,
        request: &proto::UpdateFloatingIpRequest,
    ) -> Result<Decided<proto::FloatingIp>, Refusal> {
        let old = self.find_floating_ip(&request.id)?;
        let etag = view::etag(old.updated_at);
        Refusal::unless_etag("floating IP", old.address, &request.etag, etag)?;
        let mut new = self.changed_floating_ip(old, request)?;
        if new == *old {
            return Ok(Decided::unchanged(self.floating_ip_view(old)));
        }
        new.updated_at = view::later(old.updated_at);
        if request.validate_only {
            return Ok(Decided::unchanged(self.floating_ip_view(&new)));
        }
        Ok(Self::decide_floating_ip(Some(old.clone()), new))
    }

    /// Returns `old` as the request would leave it; its time of change apart.
    fn changed_floating_ip(
        &self,
        old: &FloatingIp,
        request: &proto::UpdateFloatingIpRequest,
    ) -> Result<FloatingIp, Refusal> {
        let mask = Mask::new(
            request.update_mask.as_ref(),
            &["nic_id"],
            &[
                ("nic_id", !request.nic_id.is_empty()),
                ("labels", !request.labels.is_empty()),
                ("description", !request.description.is_empty()),
            ],
        )?;
        let mut new = old.clone();
        if mask.names("nic_id") {
            let nic = self.find_target(&request.nic_id, old.address)?;
            if nic.id != old.nic_id {
                self.check_reached(nic.id)?;
            }
            (new.nic_id, new.network_id) = (nic.id, nic.network_id);
        }
        if mask.names("labels") {
            new.labels = fields::labels(&request.labels)?;
        }
        if mask.names("description") {
            new.description = fields::description(&request.description)?;
        }
        Ok(new)
    }

    /// Deletes a floating IP.
    pub fn delete_floating_ip(
        &self,
        request: &proto::DeleteFloatingIpRequest,
    ) -> Result<Decided<proto::DeleteFloatingIpResponse>, Refusal> {
        let floating_ip = self.find_floating_ip(&request.id)?;
        let etag = view::etag(floating_ip.updated_at);
        Refusal::unless_etag("floating IP", floating_ip.address, &request.etag, etag)?;
        let response = proto::DeleteFloatingIpResponse { deleted: true };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        Ok(Decided::new(Change::DeleteFloatingIp(floating_ip.id), move |_| response))
    }

    /// Says why a floating IP is not in force; nothing where it is.
    fn floating_ip_error(&self, floating_ip: &FloatingIp) -> String {
        match self.egress_way() {
            WayOut::User(_) => "egress is by sockets of the host: start with --egress tun".into(),
            WayOut::Off(_) | WayOut::Tun(_) => {
                self.routed_error(floating_ip.nic_id, floating_ip.address)
            }
        }
    }

    pub(super) fn floating_ip_view(&self, floating_ip: &FloatingIp) -> proto::FloatingIp {
        let network = self.networks.get(&floating_ip.network_id).map(|network| &network.model.name);
        let nic = self.stored_nic(floating_ip.nic_id).map(|nic| &nic.name);
        proto::FloatingIp {
            id: floating_ip.id.to_string(),
            address: floating_ip.address.to_string(),
            nic_id: floating_ip.nic_id.to_string(),
            created_at: floating_ip.created_at.to_string(),
            updated_at: floating_ip.updated_at.to_string(),
            error: self.floating_ip_error(floating_ip),
            labels: floating_ip.labels.clone(),
            description: floating_ip.description.clone(),
            etag: view::etag(floating_ip.updated_at),
            network_name: view::string(network),
            nic_name: view::string(nic),
        }
    }
}
