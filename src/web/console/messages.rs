//! What is asked for once: messages of the API, as `mvirt -o json` prints them.

use super::{
    super::answer::{Answer, Refused, whole},
    query::Query,
};
use crate::{
    control::{events, happened, service::Service},
    dataplane::frame::verdict::DropReason,
    printable::printable,
    proto::{
        Event, ExplainRequest, GetEgressRequest, GetForwardRequest, GetNetworkRequest,
        GetNicRequest, GetNicStatsRequest, GetPortRequest, GetVersionRequest,
        ListFloatingIpsRequest, ListForwardsRequest, ListLoadBalancersRequest, ListMacsRequest,
        ListNetworksRequest, ListNicsRequest, ListPortsRequest, ListReactorsRequest, PacketSpec,
        WatchEventsRequest, explain_request::What, get_network_request, get_nic_request,
        get_port_request, net_service_server::NetService,
    },
    written::{self, Octets},
};
use serde::Serialize;
use serde_json::json;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Objects of a page, where nobody says, and at most.
const PAGE: u32 = 1000;
/// Events, where nobody says.
const LAST: usize = 1000;
/// What there is.
const KNOWN: &str = "/api/ and version, egress, networks, nics, ports, forwards, floating_ips, \
                     load_balancers, events, event_kinds, reactors, drop_reasons, networks/NAME, \
                     networks/NAME/macs, nics/NAME, nics/NAME/stats, ports/NAME, ports/NAME/stats, \
                     forwards/NAME, explain, capture or live";

/// Answers what is asked for by a path below `/api/`.
pub(super) async fn get(service: &Service, path: &str, query: Query) -> Result<Answer, Refused> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [list] => all(service, list, query).await,
        [kind, key] if !key.is_empty() => {
            query.end()?;
            one(service, kind, key.into()).await
        }
        [kind, key, part] if !key.is_empty() => {
            query.end()?;
            part_of(service, (kind, part), key.into()).await
        }
        _ => Err(Refused::unknown(KNOWN)),
    }
}

/// Lists, and what there is one of.
async fn all(service: &Service, what: &str, mut query: Query) -> Result<Answer, Refused> {
    macro_rules! list {
        ($request:ident { $($field:ident: $name:literal),* }, $method:ident) => {{
            let page_size = query.number("page_size", PAGE, 1..=PAGE)?;
            let page_token = query.text("page_token")?;
            let labels = written::labels(query.all("label"));
            let labels = labels.map_err(|twice| Refused::bad(format!("label: {twice}")))?;
            $(let $field = query.text($name)?;)*
            query.end()?;
            let request = $request { page_size, page_token, labels, $($field),* };
            json(service.$method(Request::new(request)).await)
        }};
    }
    match what {
        "networks" => {
            list!(ListNetworksRequest { name_prefix: "name_prefix" }, list_networks)
        }
        "nics" => {
            list!(ListNicsRequest { network_id: "network", name_prefix: "name_prefix" }, list_nics)
        }
        "ports" => list!(
            ListPortsRequest { network_id: "network", name_prefix: "name_prefix" },
            list_ports
        ),
        "forwards" => list!(
            ListForwardsRequest { network_id: "network", name_prefix: "name_prefix" },
            list_forwards
        ),
        "load_balancers" => list!(
            ListLoadBalancersRequest { network_id: "network", name_prefix: "name_prefix" },
            list_load_balancers
        ),
        "floating_ips" => {
            list!(ListFloatingIpsRequest { network_id: "network" }, list_floating_ips)
        }
        "version" => {
            query.end()?;
            json(service.get_version(Request::new(GetVersionRequest {})).await)
        }
        "egress" => {
            query.end()?;
            json(service.get_egress(Request::new(GetEgressRequest {})).await)
        }
        "reactors" => {
            query.end()?;
            json(service.list_reactors(Request::new(ListReactorsRequest {})).await)
        }
        "events" => happened(service, query).await,
        "event_kinds" => {
            query.end()?;
            let kinds: Vec<_> = happened::kinds().collect();
            Ok(whole("application/json", json!({ "event_kinds": kinds }).to_string()))
        }
        "drop_reasons" => {
            query.end()?;
            Ok(drop_reasons())
        }
        _ => Err(Refused::unknown(KNOWN)),
    }
}

/// What has happened, the first of it first.
#[derive(Debug, Serialize)]
struct Happened {
    events: Vec<Event>,
}

/// The last events that are kept: since a time, of some kinds, of an object.
async fn happened(service: &Service, mut query: Query) -> Result<Answer, Refused> {
    let last = query.number("last", LAST, 1..=events::KEPT)?;
    let object = match &*query.text("object")? {
        "" => None,
        id => Some(id.parse::<Uuid>().map_err(|_| {
            Refused::bad(format!("object: \"{:.60}\": expected an id", printable(id)))
        })?),
    };
    let request = WatchEventsRequest { since: query.text("since")?, kinds: query.all("kind") };
    query.end()?;
    let events = service.last_events(request, last, object).await?;
    json(Ok(Response::new(Happened { events })))
}

/// One object.
async fn one(service: &Service, kind: &str, key: String) -> Result<Answer, Refused> {
    match kind {
        "networks" => {
            let identifier = Some(get_network_request::Identifier::Name(key));
            json(service.get_network(Request::new(GetNetworkRequest { identifier })).await)
        }
        "nics" => {
            let identifier = Some(get_nic_request::Identifier::Name(key));
            json(service.get_nic(Request::new(GetNicRequest { identifier })).await)
        }
        "ports" => {
            let identifier = Some(get_port_request::Identifier::Name(key));
            json(service.get_port(Request::new(GetPortRequest { identifier })).await)
        }
        "forwards" => json(service.get_forward(Request::new(GetForwardRequest { id: key })).await),
        _ => Err(Refused::unknown(KNOWN)),
    }
}

/// What is told of an object beside it.
async fn part_of(service: &Service, what: (&str, &str), key: String) -> Result<Answer, Refused> {
    match what {
        ("nics" | "ports", "stats") => {
            json(service.get_nic_stats(Request::new(GetNicStatsRequest { id: key })).await)
        }
        ("networks", "macs") => {
            json(service.list_macs(Request::new(ListMacsRequest { network_id: key })).await)
        }
        _ => Err(Refused::unknown(KNOWN)),
    }
}

/// Says what would become of a packet, whose fields are those of PacketSpec, or of a frame in
/// hexadecimal.
pub(super) async fn explain(service: &Service, mut query: Query) -> Result<Answer, Refused> {
    let from = query.text("from")?;
    let frame = query.text("frame")?;
    let packet = PacketSpec {
        destination: query.text("destination")?,
        protocol: query.text("protocol")?,
        source_port: query.number("source_port", 0, 0..=65_535)?,
        destination_port: query.number("destination_port", 0, 0..=65_535)?,
        source: query.text("source")?,
        length: query.number("length", 0, 0..=65_535)?,
        icmp_type: query.number("icmp_type", 0, 0..=255)?,
        source_mac: query.text("source_mac")?,
        destination_mac: query.text("destination_mac")?,
    };
    query.end()?;
    let what = if frame.is_empty() {
        What::Packet(packet)
    } else {
        let frame: Result<Octets, _> = frame.parse();
        What::Frame(frame.map_err(|why| Refused::bad(format!("frame: {why}")))?.0)
    };
    json(service.explain(Request::new(ExplainRequest { from, what: Some(what) })).await)
}

fn json<T: Serialize>(answered: Result<Response<T>, Status>) -> Result<Answer, Refused> {
    let message = answered?.into_inner();
    let text = serde_json::to_vec(&message).expect("messages have string keys");
    Ok(whole("application/json", text))
}

/// What each reason for a drop means.
fn drop_reasons() -> Answer {
    let reason = |reason: &DropReason| json!({"name": reason.name(), "meaning": reason.meaning()});
    let reasons: Vec<_> = DropReason::ALL.iter().map(reason).collect();
    whole("application/json", json!({ "drop_reasons": reasons }).to_string())
}
