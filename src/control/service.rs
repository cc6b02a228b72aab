//! The gRPC face of Control: each method is one call to its thread; a list without pages is many.

use super::{
    Accounts, Caller, Control, Decided, Gone, Handle, LongLists,
    caller::{Asked, Told},
    capture, drops, events,
    refusal::Refusal,
    stats,
    watch::{self, EventStream, Streams},
};
use crate::{
    lists::{ListRequest, ListResponse as _},
    proto::{self, net_service_server::NetService},
};
use prost::Message;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// `mvirt.net.NetService`.
#[derive(Debug, Clone)]
pub struct Service {
    control: Handle,
    streams: Streams,
}

impl From<Gone> for Status {
    fn from(gone: Gone) -> Self {
        Self::unavailable(gone.to_string())
    }
}

impl Service {
    /// Serves `control`.
    pub fn new(control: Handle) -> Self {
        Self { control, streams: Streams::default() }
    }

    async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Control) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Status> {
        Ok(self.control.call(request).await??)
    }

    /// Returns the last events of those that `request` would begin with, to one object where that
    /// is wanted, the first first.
    ///
    /// # Errors
    ///
    /// Those of `WatchEvents`.
    pub async fn last_events(
        &self,
        request: proto::WatchEventsRequest,
        most: usize,
        object: Option<Uuid>,
    ) -> Result<Vec<proto::Event>, Status> {
        self.call(move |control| Ok(control.watch_events(&request)?.last(most, object))).await
    }

    /// Carries out what `decide` comes to, and tells the log who has asked for it.
    async fn change<R: Asked, T: Send + 'static>(
        &self,
        request: Request<R>,
        decide: impl Fn(&Control, &R) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let told = Told::new(&request);
        told.over(self.try_change(request.into_inner(), decide).await).map(Response::new)
    }

    async fn try_change<R: Asked, T: Send + 'static>(
        &self,
        request: R,
        decide: impl Fn(&Control, &R) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<T, Status> {
        if R::NEEDS_ID && request.object().is_empty() {
            required("id", String::new())?;
        }
        let is_dry = request.is_dry();
        let changed = self.control.change(move |control| decide(control, &request)).await?;
        if let (Err(Refusal::Exhausted(text)), false) = (&changed, is_dry) {
            let text = text.clone();
            self.control.call(move |control| control.limit_reached(text)).await?;
        }
        Ok(changed?)
    }

    /// Returns a page of a list. Where no pages are wanted, returns all of it, joined from as many
    /// pages as it takes: others have their turn in between.
    async fn list<R: ListRequest>(
        &self,
        request: Request<R>,
        page: fn(&Control, &R) -> Result<R::Response, Refusal>,
    ) -> Result<Response<R::Response>, Status> {
        // From `api/`, which knows the peer and its share.
        let long_lists = request.extensions().get::<LongLists>().cloned().unwrap_or_default();
        let mut request = request.into_inner();
        let next = |request: R| self.call(move |control| page(control, &request));
        let mut list = next(request.clone()).await?;
        if *request.size() > 0 || list.next().is_empty() {
            return Ok(Response::new(list));
        }
        // Not before the first page: most lists end there and need no right.
        let long = long_lists.take()?;
        let mut octets = list.encoded_len();
        while !list.next().is_empty() {
            *request.token() = std::mem::take(list.next());
            let more = next(request.clone()).await?;
            octets += more.encoded_len();
            LongLists::check(octets)?;
            list.join(more);
        }
        let mut response = Response::new(list);
        // Given back once it is read.
        response.extensions_mut().insert(Arc::new(long));
        Ok(response)
    }
}

/// Returns the id or name of an object. Refuses an empty one.
fn required(what: &'static str, key: String) -> Result<String, Refusal> {
    if key.is_empty() {
        Err(Refusal::invalid(what, key, "required: an id or a name"))
    } else {
        Ok(key)
    }
}

#[tonic::async_trait]
impl NetService for Service {
    async fn get_version(
        &self,
        _request: Request<proto::GetVersionRequest>,
    ) -> Result<Response<proto::VersionInfo>, Status> {
        let version = env!("CARGO_PKG_VERSION").into();
        // Not from Control, which may be waiting for the disk that this is about.
        let degraded = self.control.degraded().borrow().clone();
        Ok(Response::new(proto::VersionInfo { version, degraded }))
    }

    async fn get_egress(
        &self,
        _request: Request<proto::GetEgressRequest>,
    ) -> Result<Response<proto::Egress>, Status> {
        self.call(|control| Ok(control.get_egress())).await.map(Response::new)
    }

    async fn create_network(
        &self,
        request: Request<proto::CreateNetworkRequest>,
    ) -> Result<Response<proto::Network>, Status> {
        self.change(request, Control::create_network).await
    }

    async fn get_network(
        &self,
        request: Request<proto::GetNetworkRequest>,
    ) -> Result<Response<proto::Network>, Status> {
        use proto::get_network_request::Identifier;
        let key = match request.into_inner().identifier {
            Some(Identifier::Id(key) | Identifier::Name(key)) => key,
            None => String::new(),
        };
        let key = required("identifier", key)?;
        self.call(move |control| control.get_network(&key)).await.map(Response::new)
    }

    async fn list_networks(
        &self,
        request: Request<proto::ListNetworksRequest>,
    ) -> Result<Response<proto::ListNetworksResponse>, Status> {
        self.list(request, Control::list_networks).await
    }

    async fn update_network(
        &self,
        request: Request<proto::UpdateNetworkRequest>,
    ) -> Result<Response<proto::Network>, Status> {
        self.change(request, Control::update_network).await
    }

    async fn delete_network(
        &self,
        request: Request<proto::DeleteNetworkRequest>,
    ) -> Result<Response<proto::DeleteNetworkResponse>, Status> {
        self.change(request, Control::delete_network).await
    }

    async fn create_nic(
        &self,
        request: Request<proto::CreateNicRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        let asked = request.get_ref();
        // Before the turn on Control: a name service may take its time.
        match Accounts::find(&asked.socket_owner, &asked.socket_group).await {
            Ok(accounts) => {
                self.change(request, move |control, it| control.create_nic(it, &accounts)).await
            }
            Err(refusal) => Told::new(&request).over(Err(refusal.into())),
        }
    }

    async fn get_nic(
        &self,
        request: Request<proto::GetNicRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        use proto::get_nic_request::Identifier;
        let key = match request.into_inner().identifier {
            Some(Identifier::Id(key) | Identifier::Name(key)) => key,
            None => String::new(),
        };
        let key = required("identifier", key)?;
        self.call(move |control| control.get_nic(&key)).await.map(Response::new)
    }

    async fn list_nics(
        &self,
        request: Request<proto::ListNicsRequest>,
    ) -> Result<Response<proto::ListNicsResponse>, Status> {
        self.list(request, Control::list_nics).await
    }

    async fn update_nic(
        &self,
        request: Request<proto::UpdateNicRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        let asked = request.get_ref();
        match Accounts::find(&asked.socket_owner, &asked.socket_group).await {
            Ok(accounts) => {
                self.change(request, move |control, it| control.update_nic(it, &accounts)).await
            }
            Err(refusal) => Told::new(&request).over(Err(refusal.into())),
        }
    }

    async fn set_nic_metadata(
        &self,
        request: Request<proto::SetNicMetadataRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        self.change(request, Control::set_nic_metadata).await
    }

    async fn set_nic_limits(
        &self,
        request: Request<proto::SetNicLimitsRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        self.change(request, Control::set_nic_limits).await
    }

    async fn delete_nic(
        &self,
        request: Request<proto::DeleteNicRequest>,
    ) -> Result<Response<proto::DeleteNicResponse>, Status> {
        self.change(request, Control::delete_nic).await
    }

    async fn get_nic_stats(
        &self,
        request: Request<proto::GetNicStatsRequest>,
    ) -> Result<Response<proto::NicStats>, Status> {
        let id = required("id", request.into_inner().id)?;
        self.call(move |control| control.nic_stats(&id)).await.map(Response::new)
    }

    async fn create_port(
        &self,
        request: Request<proto::CreatePortRequest>,
    ) -> Result<Response<proto::Port>, Status> {
        self.change(request, Control::create_port).await
    }

    async fn get_port(
        &self,
        request: Request<proto::GetPortRequest>,
    ) -> Result<Response<proto::Port>, Status> {
        use proto::get_port_request::Identifier;
        let key = match request.into_inner().identifier {
            Some(Identifier::Id(key) | Identifier::Name(key)) => key,
            None => String::new(),
        };
        let key = required("identifier", key)?;
        self.call(move |control| control.get_port(&key)).await.map(Response::new)
    }

    async fn list_ports(
        &self,
        request: Request<proto::ListPortsRequest>,
    ) -> Result<Response<proto::ListPortsResponse>, Status> {
        self.list(request, Control::list_ports).await
    }

    async fn update_port(
        &self,
        request: Request<proto::UpdatePortRequest>,
    ) -> Result<Response<proto::Port>, Status> {
        self.change(request, Control::update_port).await
    }

    async fn delete_port(
        &self,
        request: Request<proto::DeletePortRequest>,
    ) -> Result<Response<proto::DeletePortResponse>, Status> {
        self.change(request, Control::delete_port).await
    }

    async fn create_forward(
        &self,
        request: Request<proto::CreateForwardRequest>,
    ) -> Result<Response<proto::Forward>, Status> {
        self.change(request, Control::create_forward).await
    }

    async fn get_forward(
        &self,
        request: Request<proto::GetForwardRequest>,
    ) -> Result<Response<proto::Forward>, Status> {
        let key = required("id", request.into_inner().id)?;
        self.call(move |control| control.get_forward(&key)).await.map(Response::new)
    }

    async fn list_forwards(
        &self,
        request: Request<proto::ListForwardsRequest>,
    ) -> Result<Response<proto::ListForwardsResponse>, Status> {
        self.list(request, Control::list_forwards).await
    }

    async fn update_forward(
        &self,
        request: Request<proto::UpdateForwardRequest>,
    ) -> Result<Response<proto::Forward>, Status> {
        self.change(request, Control::update_forward).await
    }

    async fn delete_forward(
        &self,
        request: Request<proto::DeleteForwardRequest>,
    ) -> Result<Response<proto::DeleteForwardResponse>, Status> {
        self.change(request, Control::delete_forward).await
    }

    async fn create_floating_ip(
        &self,
        request: Request<proto::CreateFloatingIpRequest>,
    ) -> Result<Response<proto::FloatingIp>, Status> {
        self.change(request, Control::create_floating_ip).await
    }

    async fn get_floating_ip(
        &self,
        request: Request<proto::GetFloatingIpRequest>,
    ) -> Result<Response<proto::FloatingIp>, Status> {
        let key = required("id", request.into_inner().id)?;
        self.call(move |control| control.get_floating_ip(&key)).await.map(Response::new)
    }

    async fn list_floating_ips(
        &self,
        request: Request<proto::ListFloatingIpsRequest>,
    ) -> Result<Response<proto::ListFloatingIpsResponse>, Status> {
        self.list(request, Control::list_floating_ips).await
    }

    async fn update_floating_ip(
        &self,
        request: Request<proto::UpdateFloatingIpRequest>,
    ) -> Result<Response<proto::FloatingIp>, Status> {
        self.change(request, Control::update_floating_ip).await
    }

    async fn delete_floating_ip(
        &self,
        request: Request<proto::DeleteFloatingIpRequest>,
    ) -> Result<Response<proto::DeleteFloatingIpResponse>, Status> {
        self.change(request, Control::delete_floating_ip).await
    }

    async fn create_load_balancer(
        &self,
        request: Request<proto::CreateLoadBalancerRequest>,
    ) -> Result<Response<proto::LoadBalancer>, Status> {
        self.change(request, Control::create_load_balancer).await
    }

    async fn get_load_balancer(
        &self,
        request: Request<proto::GetLoadBalancerRequest>,
    ) -> Result<Response<proto::LoadBalancer>, Status> {
        let key = required("id", request.into_inner().id)?;
        self.call(move |control| control.get_load_balancer(&key)).await.map(Response::new)
    }

    async fn list_load_balancers(
        &self,
        request: Request<proto::ListLoadBalancersRequest>,
    ) -> Result<Response<proto::ListLoadBalancersResponse>, Status> {
        self.list(request, Control::list_load_balancers).await
    }

    async fn update_load_balancer(
        &self,
        request: Request<proto::UpdateLoadBalancerRequest>,
    ) -> Result<Response<proto::LoadBalancer>, Status> {
        self.change(request, Control::update_load_balancer).await
    }

    async fn delete_load_balancer(
        &self,
        request: Request<proto::DeleteLoadBalancerRequest>,
    ) -> Result<Response<proto::DeleteLoadBalancerResponse>, Status> {
        self.change(request, Control::delete_load_balancer).await
    }

    async fn list_macs(
        &self,
        request: Request<proto::ListMacsRequest>,
    ) -> Result<Response<proto::ListMacsResponse>, Status> {
        let mut request = request.into_inner();
        request.network_id = required("network_id", request.network_id)?;
        Ok(Response::new(self.control.list_macs(request).await??))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainReply>, Status> {
        Ok(Response::new(self.control.explain(request.into_inner()).await??))
    }

    type WatchStatsStream = EventStream<proto::StatsUpdate>;

    async fn watch_stats(
        &self,
        request: Request<proto::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let interval = stats::interval(&request)?;
        // What is not there is told as a refusal, and not by the stream.
        let targets = request.targets.clone();
        self.call(move |control| control.counted(&targets).map(drop)).await?;
        let updates = stats::watch(self.control.clone(), request.targets, interval, stream);
        Ok(Response::new(Box::pin(updates)))
    }

    type WatchPortsStream = EventStream<proto::PortEvent>;

    async fn watch_ports(
        &self,
        request: Request<proto::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let mark = request.mark_synced;
        let watch = self.call(move |control| control.watch_ports(&request)).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    async fn list_reactors(
        &self,
        _request: Request<proto::ListReactorsRequest>,
    ) -> Result<Response<proto::ListReactorsResponse>, Status> {
        let reactors = self.call(|control| Ok(control.list_reactors())).await?;
        Ok(Response::new(proto::ListReactorsResponse { reactors }))
    }

    type WatchNicsStream = EventStream<proto::NicEvent>;

    async fn watch_nics(
        &self,
        request: Request<proto::WatchNicsRequest>,
    ) -> Result<Response<Self::WatchNicsStream>, Status> {
        // The stream is taken first: a watch too many costs Control nothing.
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let mark = request.mark_synced;
        let watch = self.call(move |control| control.watch_nics(&request)).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    type WatchEventsStream = EventStream<proto::Event>;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let watch = self.call(move |control| control.watch_events(&request)).await?;
        Ok(events::stream(watch, stream))
    }

    type WatchNetworksStream = EventStream<proto::NetworkEvent>;

    async fn watch_networks(
        &self,
        request: Request<proto::WatchNetworksRequest>,
    ) -> Result<Response<Self::WatchNetworksStream>, Status> {
        let (mark, stream) = (request.into_inner().mark_synced, self.streams.take()?);
        let watch = self.call(|control| Ok(control.watch_networks())).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    type WatchForwardsStream = EventStream<proto::ForwardEvent>;

    async fn watch_forwards(
        &self,
        request: Request<proto::WatchForwardsRequest>,
    ) -> Result<Response<Self::WatchForwardsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let mark = request.mark_synced;
        let watch = self.call(move |control| control.watch_forwards(&request)).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    type WatchFloatingIpsStream = EventStream<proto::FloatingIpEvent>;

    async fn watch_floating_ips(
        &self,
        request: Request<proto::WatchFloatingIpsRequest>,
    ) -> Result<Response<Self::WatchFloatingIpsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let mark = request.mark_synced;
        let watch = self.call(move |control| control.watch_floating_ips(&request)).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    type WatchLoadBalancersStream = EventStream<proto::LoadBalancerEvent>;

    async fn watch_load_balancers(
        &self,
        request: Request<proto::WatchLoadBalancersRequest>,
    ) -> Result<Response<Self::WatchLoadBalancersStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let mark = request.mark_synced;
        let watch = self.call(move |control| control.watch_load_balancers(&request)).await?;
        Ok(watch::stream(watch, mark, stream))
    }

    type WatchDropsStream = EventStream<proto::DropsUpdate>;

    async fn watch_drops(
        &self,
        request: Request<proto::WatchDropsRequest>,
    ) -> Result<Response<Self::WatchDropsStream>, Status> {
        let (request, stream) = (request.into_inner(), self.streams.take()?);
        let watch = self.call(move |control| control.watch_drops(&request)).await?;
        Ok(Response::new(Box::pin(drops::stream(watch, self.control.clone(), stream))))
    }

    type CaptureStream = EventStream<proto::CaptureChunk>;

    async fn capture(
        &self,
        request: Request<proto::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        // From `api/`, which knows the peer.
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let request = request.into_inner();
        let begun = self.call(move |control| control.begin_capture(&request, &caller.0)).await?;
        Ok(Response::new(capture::serve(begun, self.control.clone())))
    }
}
