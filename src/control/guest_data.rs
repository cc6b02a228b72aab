//! What the owner of a vNIC has its guest told: asked for, checked, shown, and given to services.

use super::{Control, change::Decided, fields, mask::Mask, refusal::Refusal};
use crate::{
    model::{GuestData, Labels, Network, Nic, Octets},
    printable::is_printable,
    proto,
    services::Card,
};
use std::sync::Arc;

/// Octets of user data and of vendor data: what clouds take at most, and somewhat more.
const MAX_OCTETS: usize = 64 * 1024;
/// Public keys, and octets of all of them. RSA's of 16,384 bits has some 2,800.
const MAX_KEYS: usize = 16;
const MAX_KEY_OCTETS: usize = 16 * 1024;
/// Octets of all keys and values of `extra`.
const MAX_EXTRA_OCTETS: usize = 16 * 1024;
/// Hops that a token may make, as EC2 has it.
const HOPS: std::ops::RangeInclusive<u32> = 1..=64;

impl Control {
    /// Changes what a vNIC's guest is told.
    pub fn set_nic_metadata(
        &self,
        request: &proto::SetNicMetadataRequest,
    ) -> Result<Decided<proto::Nic>, Refusal> {
        self.change_stored_nic((&request.id, &request.etag), request.validate_only, |old| {
            told_nic(old, request)
        })
    }
}

/// `old` as the request would leave it; its time of change apart.
fn told_nic(old: &Nic, request: &proto::SetNicMetadataRequest) -> Result<Nic, Refusal> {
    let given = [
        ("user_data", !request.user_data.is_empty()),
        ("vendor_data", !request.vendor_data.is_empty()),
        ("public_keys", !request.public_keys.is_empty()),
        ("extra", !request.extra.is_empty()),
        ("token_required", request.token_required),
        ("token_hop_limit", request.token_hop_limit != 0),
    ];
    let mask = Mask::new(request.update_mask.as_ref(), &given.map(|(name, _)| name), &given)?;
    let mut new = old.clone();
    let mut data = new.metadata.take().unwrap_or_default();
    if mask.names("user_data") {
        data.user_data = octets("user_data", &request.user_data)?;
    }
    if mask.names("vendor_data") {
        data.vendor_data = octets("vendor_data", &request.vendor_data)?;
    }
    if mask.names("public_keys") {
        data.public_keys = public_keys(&request.public_keys)?;
    }
    if mask.names("extra") {
        data.extra = extra(&request.extra)?;
    }
    if mask.names("token_required") {
        data.token_required = request.token_required;
    }
    if mask.names("token_hop_limit") {
        data.token_hop_limit = token_hop_limit(request.token_hop_limit)?;
    }
    new.metadata = (*data != GuestData::default()).then_some(data);
    Ok(new)
}

fn octets(field: &'static str, octets: &[u8]) -> Result<Octets, Refusal> {
    Refusal::unless_at_most(MAX_OCTETS, field, octets.len(), "octets")?;
    Ok(octets.to_vec().into())
}

fn public_keys(keys: &[String]) -> Result<Vec<String>, Refusal> {
    Refusal::unless_at_most(MAX_KEYS, "public_keys", keys.len(), "keys")?;
    let octets = keys.iter().map(String::len).sum();
    Refusal::unless_at_most(MAX_KEY_OCTETS, "public_keys", octets, "octets in all")?;
    // A line end in one would make it two, of which nobody has seen the other.
    let is_line = |key: &&String| !key.is_empty() && key.chars().all(is_printable);
    match keys.iter().find(|key| !is_line(key)) {
        Some(key) => Err(Refusal::invalid("public_keys", key, "expected a line of printable text")),
        None => Ok(keys.to_vec()),
    }
}

fn extra(extra: &Labels) -> Result<Labels, Refusal> {
    let octets = extra.iter().map(|(key, value)| key.len() + value.len()).sum();
    Refusal::unless_at_most(MAX_EXTRA_OCTETS, "extra", octets, "octets in all")?;
    fields::check_keys("extra", extra)?;
    Ok(extra.clone())
}

/// Returns nothing for zero: proto3 does not tell it from an absent field.
fn token_hop_limit(hops: u32) -> Result<Option<u8>, Refusal> {
    match u8::try_from(hops) {
        Ok(0) => Ok(None),
        Ok(limit) if HOPS.contains(&hops) => Ok(Some(limit)),
        _ => Err(Refusal::invalid("token_hop_limit", hops, "expected 1-64")),
    }
}

/// Returns the API's view of what a guest is told, if anything is.
pub(super) fn view(network: Option<&Network>, nic: &Nic) -> Option<proto::NicMetadata> {
    let served = network.is_some_and(|network| network.metadata);
    if !served && nic.metadata.is_none() {
        return None;
    }
    let data = nic.metadata.clone().unwrap_or_default();
    Some(proto::NicMetadata {
        served,
        user_data_octets: data.user_data.octets().len() as u32,
        vendor_data_octets: data.vendor_data.octets().len() as u32,
        public_keys: data.public_keys.len() as u32,
        extra: data.extra.len() as u32,
        token_required: data.token_required,
        token_hop_limit: data.token_hop_limit.unwrap_or(1).into(),
    })
}

/// Returns what services tell a vNIC's guest, where its network has that.
pub(super) fn card(network: &Network, nic: &Nic) -> Option<Arc<Card>> {
    let card = || Card { network: network.clone(), nic: nic.clone(), public_ipv4: None };
    network.metadata.then(|| Arc::new(card()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_is_told_has_bounds() {
        assert!(octets("user_data", &vec![0; MAX_OCTETS]).is_ok());
        assert!(octets("user_data", &vec![0; MAX_OCTETS + 1]).is_err());
        let key = "ssh-ed25519 AAAA me".to_owned();
        assert!(public_keys(&vec![key.clone(); MAX_KEYS]).is_ok());
        assert!(public_keys(&vec![key.clone(); MAX_KEYS + 1]).is_err());
        for bad in ["", "a\nb", "\u{1b}[31m", &*"x".repeat(MAX_KEY_OCTETS + 1)] {
            assert!(public_keys(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        let one = |key: &str, value: &str| extra(&Labels::from([(key.into(), value.into())]));
        assert!(one("role", "two\nlines \u{e4}").is_ok());
        assert!(one("", "x").is_err() && one("a b", "x").is_err());
        assert!(one("role", &"x".repeat(MAX_EXTRA_OCTETS)).is_err());
        assert_eq!([0, 1, 64].map(|it| token_hop_limit(it).unwrap()), [None, Some(1), Some(64)]);
        assert!(token_hop_limit(65).is_err() && token_hop_limit(256).is_err());
    }
}
