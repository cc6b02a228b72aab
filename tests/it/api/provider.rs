//! What a provider of Terraform, or another program that keeps what there is as it is written, does
//! with each kind of object: it makes it, reads it back as it was written, finds it by its name,
//! changes one field if nobody else has changed it, sees that nothing is left to be done, imports
//! it by its id, and finds it gone when it deletes it again.

use crate::{
    daemon::Daemon,
    egress::rig::{on_a_host, start_egress},
};
use mvirt_net::proto::{
    self, Addressing, Backend, BalancedPort, Boot, CreateFloatingIpRequest, CreateForwardRequest,
    CreateLoadBalancerRequest, CreateNetworkRequest, CreateNicRequest, CreatePortRequest, DnsMode,
    HealthCheck, HealthKind, Impairments, Ipv6Mode, L2Policy, NetworkKind, PortRole, PortSecurity,
    Protocol, RateLimit, TaggedNetwork, Toggle, Transport, get_network_request, get_nic_request,
    get_port_request,
};
use prost_types::FieldMask;
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// What a provider knows of an object beside what is written of it.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    id: String,
    name: String,
    etag: String,
    updated_at: String,
}

/// What is written of an object: all that can be asked for.
trait Resource: Clone + PartialEq + std::fmt::Debug {
    /// What can be changed later.
    const FIELDS: &[&str];

    fn create(&self, daemon: &mut Daemon) -> Result<(Self, Known), Status>;
    /// Reads an object of that id or name, as it would be written.
    fn read(daemon: &mut Daemon, key: &str) -> Result<(Self, Known), Status>;
    fn update(
        &self,
        daemon: &mut Daemon,
        known: &Known,
        fields: &[&str],
    ) -> Result<(Self, Known), Status>;
    fn delete(daemon: &mut Daemon, known: &Known) -> Result<(), Status>;
    fn set_description(&mut self, text: &str);
}

macro_rules! known {
    ($object:ident, $name:ident) => {
        Known {
            id: $object.id.clone(),
            name: $object.$name.clone(),
            etag: $object.etag.clone(),
            updated_at: $object.updated_at.clone(),
        }
    };
}

/// A kind of object: which calls there are, how an object is written, and what can be changed.
macro_rules! resource {
    (
        $request:ident, $object:ident, $name:ident, $written:expr, $get:expr,
        [$create:ident, $read:ident, $update:ident($change:ident), $delete:ident($gone:ident)],
        { $($field:ident: $value:expr),* $(,)? }, [$($same:ident),* $(,)?]
    ) => {
        impl Resource for $request {
            const FIELDS: &[&str] = &[$(stringify!($field),)* $(stringify!($same)),*];

            fn create(&self, daemon: &mut Daemon) -> Result<(Self, Known), Status> {
                let request = self.clone();
                let made = daemon.call(async |client| client.$create(request).await)?;
                Ok(($written(&made), known!(made, $name)))
            }

            fn read(daemon: &mut Daemon, key: &str) -> Result<(Self, Known), Status> {
                let request = $get(key.to_owned());
                let there = daemon.call(async |client| client.$read(request).await)?;
                Ok(($written(&there), known!(there, $name)))
            }

            fn update(
                &self,
                daemon: &mut Daemon,
                known: &Known,
                fields: &[&str],
            ) -> Result<(Self, Known), Status> {
                let paths = fields.iter().map(ToString::to_string).collect();
                let this = self.clone();
                let request = proto::$change {
                    id: known.id.clone(),
                    etag: known.etag.clone(),
                    update_mask: Some(FieldMask { paths }),
                    $($field: $value(&this),)*
                    $($same: this.$same,)*
                    ..Default::default()
                };
                let now = daemon.call(async |client| client.$update(request).await)?;
                Ok(($written(&now), known!(now, $name)))
            }

            fn delete(daemon: &mut Daemon, known: &Known) -> Result<(), Status> {
                let (id, etag) = (known.id.clone(), known.etag.clone());
                let request = proto::$gone { id, etag, ..Default::default() };
                daemon.call(async |client| client.$delete(request).await).map(drop)
            }

            fn set_description(&mut self, text: &str) {
                self.description = text.into();
            }
        }
    };
}

fn network(it: &proto::Network) -> CreateNetworkRequest {
    CreateNetworkRequest {
        name: it.name.clone(),
        ipv4_enabled: it.ipv4_enabled,
        ipv4_subnet: it.ipv4_subnet.clone(),
        ipv6_enabled: it.ipv6_enabled,
        ipv6_prefix: it.ipv6_prefix.clone(),
        dns_servers: it.dns_servers.clone(),
        ntp_servers: it.ntp_servers.clone(),
        is_public: it.is_public,
        id: it.id.clone(),
        mtu: it.mtu,
        domain: it.domain.clone(),
        kind: it.kind,
        gateway: it.gateway,
        gateway_ipv4: it.gateway_ipv4.clone(),
        l2: it.l2.clone(),
        dns_mode: it.dns_mode,
        metadata: it.metadata,
        labels: it.labels.clone(),
        description: it.description.clone(),
        boot: it.boot.clone(),
        validate_only: false,
    }
}

resource! {
    CreateNetworkRequest, Network, name, network,
    |key| proto::GetNetworkRequest { identifier: Some(get_network_request::Identifier::Name(key)) },
    [
        create_network, get_network,
        update_network(UpdateNetworkRequest), delete_network(DeleteNetworkRequest)
    ],
    { is_public: |it: &Self| Some(it.is_public) },
    [name, dns_servers, ntp_servers, mtu, domain, dns_mode, metadata, labels, description, boot, l2]
}

fn nic(it: &proto::Nic) -> CreateNicRequest {
    CreateNicRequest {
        network_id: it.network_id.clone(),
        name: it.name.clone(),
        mac_address: it.mac_address.clone(),
        ipv4_address: it.ipv4_address.clone(),
        ipv6_address: it.ipv6_address.clone(),
        routed_ipv4_prefixes: it.routed_ipv4_prefixes.clone(),
        routed_ipv6_prefixes: it.routed_ipv6_prefixes.clone(),
        id: it.id.clone(),
        addressing: it.addressing,
        queue_pairs: it.queue_pairs,
        mtu: it.requested_mtu,
        ipv6_mode: it.ipv6_mode,
        limit_from_guest: it.limit_from_guest,
        limit_to_guest: it.limit_to_guest,
        port_security: it.port_security,
        mac_limit: it.requested_mac_limit,
        transport: it.transport,
        tap_interface: it.tap_interface.clone(),
        datagrams: it.datagrams.clone(),
        labels: it.labels.clone(),
        description: it.description.clone(),
        boot: it.boot.clone(),
        socket_owner: it.socket_owner.clone(),
        socket_group: it.socket_group.clone(),
        socket_mode: it.socket_mode.clone(),
        validate_only: false,
        impairments: it.impairments.clone(),
    }
}

resource! {
    CreateNicRequest, Nic, name, nic,
    |key| proto::GetNicRequest { identifier: Some(get_nic_request::Identifier::Name(key)) },
    [create_nic, get_nic, update_nic(UpdateNicRequest), delete_nic(DeleteNicRequest)],
    {},
    [
        name, mac_address, ipv4_address, ipv6_address, mtu, addressing, routed_ipv4_prefixes,
        routed_ipv6_prefixes, limit_from_guest, limit_to_guest, labels, description, boot,
        socket_owner, socket_group, socket_mode, queue_pairs, port_security, mac_limit, impairments,
    ]
}

fn port(it: &proto::Port) -> CreatePortRequest {
    let vlan = |it: &TaggedNetwork| TaggedNetwork { network_name: String::new(), ..it.clone() };
    CreatePortRequest {
        network_id: it.network_id.clone(),
        name: it.name.clone(),
        locator: it.locator.clone(),
        role: it.requested_role,
        vlans: it.vlans.iter().map(vlan).collect(),
        mac_limit: it.requested_mac_limit,
        limit_from: it.limit_from,
        limit_to: it.limit_to,
        protected: it.protected,
        id: it.id.clone(),
        labels: it.labels.clone(),
        description: it.description.clone(),
        validate_only: false,
        impairments: it.impairments.clone(),
    }
}

resource! {
    CreatePortRequest, Port, name, port,
    |key| proto::GetPortRequest { identifier: Some(get_port_request::Identifier::Name(key)) },
    [create_port, get_port, update_port(UpdatePortRequest), delete_port(DeletePortRequest)],
    {},
    [
        name, role, vlans, mac_limit, limit_from, limit_to, protected, labels, description,
        impairments,
    ]
}

fn forward(it: &proto::Forward) -> CreateForwardRequest {
    CreateForwardRequest {
        id: it.id.clone(),
        network_id: it.network_id.clone(),
        listen_address: it.listen_address.clone(),
        protocol: it.protocol,
        listen_ports: it.listen_ports.clone(),
        nic_id: it.nic_id.clone(),
        target_ports: it.target_ports.clone(),
        description: it.description.clone(),
        name: it.name.clone(),
        labels: it.labels.clone(),
        validate_only: false,
    }
}

resource! {
    CreateForwardRequest, Forward, name, forward,
    |id| proto::GetForwardRequest { id },
    [
        create_forward, get_forward,
        update_forward(UpdateForwardRequest), delete_forward(DeleteForwardRequest)
    ],
    {},
    [name, listen_address, protocol, listen_ports, nic_id, target_ports, labels, description]
}

fn floating_ip(it: &proto::FloatingIp) -> CreateFloatingIpRequest {
    CreateFloatingIpRequest {
        id: it.id.clone(),
        address: it.address.clone(),
        nic_id: it.nic_id.clone(),
        labels: it.labels.clone(),
        description: it.description.clone(),
        validate_only: false,
    }
}

resource! {
    CreateFloatingIpRequest, FloatingIp, address, floating_ip,
    |id| proto::GetFloatingIpRequest { id },
    [
        create_floating_ip, get_floating_ip,
        update_floating_ip(UpdateFloatingIpRequest), delete_floating_ip(DeleteFloatingIpRequest)
    ],
    {},
    [nic_id, labels, description]
}

fn load_balancer(it: &proto::LoadBalancer) -> CreateLoadBalancerRequest {
    // What is not of requests is not written.
    let backend = |it: &Backend| Backend {
        healthy: false,
        error: String::new(),
        nic_name: String::new(),
        ..it.clone()
    };
    CreateLoadBalancerRequest {
        id: it.id.clone(),
        network_id: it.network_id.clone(),
        address: it.address.clone(),
        ports: it.ports.clone(),
        backends: it.backends.iter().map(backend).collect(),
        health: it.health.clone(),
        reject_when_empty: it.reject_when_empty,
        description: it.description.clone(),
        name: it.name.clone(),
        labels: it.labels.clone(),
        validate_only: false,
    }
}

resource! {
    CreateLoadBalancerRequest, LoadBalancer, name, load_balancer,
    |id| proto::GetLoadBalancerRequest { id },
    [
        create_load_balancer, get_load_balancer,
        update_load_balancer(UpdateLoadBalancerRequest),
        delete_load_balancer(DeleteLoadBalancerRequest)
    ],
    {},
    [name, ports, backends, health, reject_when_empty, labels, description]
}

fn labels() -> BTreeMap<String, String> {
    [("managed-by", "terraform"), ("tier", "")]
        .map(|(key, value)| (key.into(), value.into()))
        .into()
}

fn id(number: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{number:02}")
}

/// Makes an object, and does all else that a provider does before it deletes it.
fn keep<R: Resource>(daemon: &mut Daemon, written: &R) -> Known {
    let (made, known) = written.create(daemon).unwrap();
    assert_eq!(made, *written, "it is as it is written");
    assert_eq!(written.create(daemon).unwrap().1, known, "a creation that is repeated finds it");
    assert_eq!(R::read(daemon, &known.name).unwrap(), (made, known.clone()), "by its name");
    // One field; the others are not even sent.
    let mut changed = written.clone();
    changed.set_description("kept by a program");
    let (now, newer) = changed.update(daemon, &known, &["description"]).unwrap();
    assert_eq!(now, changed);
    assert_ne!(newer.etag, known.etag);
    let refused = written.update(daemon, &known, &["description"]).unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "somebody has changed it: {refused}");
    // All fields that can be changed, as they are: nothing is left to be done.
    let (same, again) = changed.update(daemon, &newer, R::FIELDS).unwrap();
    assert_eq!((same, &again), (changed.clone(), &newer), "no difference");
    assert_eq!(changed.update(daemon, &newer, &["*"]).unwrap().1, newer, "nor in all of them");
    let imported = R::read(daemon, &known.id).unwrap();
    assert_eq!(imported, (changed, newer.clone()), "by its id");
    newer
}

fn delete_twice<R: Resource>(daemon: &mut Daemon, known: &Known) {
    R::delete(daemon, known).unwrap();
    let gone = R::delete(daemon, known).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    assert_eq!(R::read(daemon, &known.id).unwrap_err().code(), Code::NotFound);
}

fn public_network() -> CreateNetworkRequest {
    CreateNetworkRequest {
        id: id(1),
        name: "web".into(),
        ipv4_enabled: true,
        ipv4_subnet: "10.1.0.0/24".into(),
        ipv6_enabled: true,
        ipv6_prefix: "fd00:1::/64".into(),
        dns_servers: vec!["9.9.9.9".into(), "2620:fe::fe".into()],
        ntp_servers: vec!["192.0.2.2".into()],
        is_public: true,
        mtu: 1400,
        domain: "web.internal".into(),
        kind: NetworkKind::Routed.into(),
        dns_mode: DnsMode::Names.into(),
        metadata: Toggle::On.into(),
        labels: labels(),
        description: "what is for all".into(),
        boot: Some(Boot { server: "10.1.0.9".into(), file: "a".into(), url: String::new() }),
        ..Default::default()
    }
}

fn switched_network(number: u8, name: &str) -> CreateNetworkRequest {
    CreateNetworkRequest {
        id: id(number),
        name: name.into(),
        mtu: 1500,
        kind: NetworkKind::Switched.into(),
        l2: Some(L2Policy { mac_aging_seconds: 60, ..Default::default() }),
        dns_mode: DnsMode::Tell.into(),
        metadata: Toggle::Off.into(),
        labels: labels(),
        ..Default::default()
    }
}

fn guest(network: &Known) -> CreateNicRequest {
    let limit = RateLimit { bits_per_second: 1_000_000_000, ..Default::default() };
    CreateNicRequest {
        network_id: network.id.clone(),
        name: "vm1".into(),
        mac_address: "52:54:00:12:34:56".into(),
        ipv4_address: "10.1.0.20".into(),
        ipv6_address: "fd00:1::20".into(),
        routed_ipv4_prefixes: vec!["10.8.0.0/16".into()],
        routed_ipv6_prefixes: vec!["fd08::/64".into()],
        id: id(3),
        addressing: Addressing::Subnet.into(),
        queue_pairs: 2,
        mtu: 1300,
        ipv6_mode: Ipv6Mode::Dhcpv6.into(),
        limit_from_guest: Some(limit),
        port_security: PortSecurity::Strict.into(),
        transport: Transport::VhostUser.into(),
        labels: labels(),
        socket_mode: "0600".into(),
        impairments: Some(Impairments { from: String::new(), to: "delay=20ms".into() }),
        ..Default::default()
    }
}

fn way_in(daemon: &Daemon, network: &Known, tagged: &Known) -> CreatePortRequest {
    CreatePortRequest {
        network_id: network.id.clone(),
        name: "lan".into(),
        locator: format!("seqpacket-listen://{}", daemon.path("s/lan").display()),
        role: PortRole::Uplink.into(),
        vlans: vec![TaggedNetwork { vid: 10, network_id: tagged.id.clone(), ..Default::default() }],
        mac_limit: 100,
        protected: true,
        id: id(4),
        labels: labels(),
        ..Default::default()
    }
}

fn shop(network: &Known, nic: &Known) -> CreateLoadBalancerRequest {
    CreateLoadBalancerRequest {
        id: id(7),
        network_id: network.id.clone(),
        address: "203.0.113.80".into(),
        ports: vec![BalancedPort { protocol: Protocol::Tcp.into(), port: 80, target_port: 8080 }],
        backends: vec![Backend { nic_id: nic.id.clone(), weight: 2, ..Default::default() }],
        health: Some(HealthCheck {
            kind: HealthKind::Http.into(),
            path: "/healthz".into(),
            port: 8081,
            interval_s: 10,
            timeout_s: 3,
            rise: 2,
            fall: 4,
        }),
        reject_when_empty: true,
        name: "front".into(),
        labels: labels(),
        ..Default::default()
    }
}

#[test]
fn each_kind_of_object_is_kept_as_it_is_written() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        let daemon = &mut daemon;
        let web = keep(daemon, &public_network());
        let lab = keep(daemon, &switched_network(2, "lab"));
        let red = keep(daemon, &switched_network(8, "red"));
        let vm1 = keep(daemon, &guest(&web));
        let trunk = way_in(daemon, &lab, &red);
        let lan = keep(daemon, &trunk);
        let http = keep(
            daemon,
            &CreateForwardRequest {
                id: id(5),
                network_id: web.id.clone(),
                listen_address: "192.0.2.1".into(),
                protocol: Protocol::Tcp.into(),
                listen_ports: "80,90-100".into(),
                nic_id: vm1.id.clone(),
                target_ports: "8080".into(),
                name: "http".into(),
                labels: labels(),
                ..Default::default()
            },
        );
        let address = keep(
            daemon,
            &CreateFloatingIpRequest {
                id: id(6),
                address: "192.0.2.77".into(),
                nic_id: vm1.id.clone(),
                labels: labels(),
                ..Default::default()
            },
        );
        let front = keep(daemon, &shop(&web, &vm1));
        // What is there outlives the daemon, to the last field.
        daemon.crash_and_restart();
        assert_eq!(CreateNicRequest::read(daemon, "vm1").unwrap().1, vm1);
        assert_eq!(CreateFloatingIpRequest::read(daemon, "192.0.2.77").unwrap().1, address);
        delete_twice::<CreateLoadBalancerRequest>(daemon, &front);
        delete_twice::<CreateFloatingIpRequest>(daemon, &address);
        delete_twice::<CreateForwardRequest>(daemon, &http);
        delete_twice::<CreatePortRequest>(daemon, &lan);
        delete_twice::<CreateNicRequest>(daemon, &vm1);
        for network in [web, lab, red] {
            delete_twice::<CreateNetworkRequest>(daemon, &network);
        }
    });
}
