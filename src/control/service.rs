//! The gRPC face of Control: each method is one call to its thread.

use super::{Control, Gone, Handle, refusal::Refusal};
use crate::{
    dataplane::Listening,
    proto::{self, net_service_server::NetService},
};
use std::pin::Pin;
use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{Request, Response, Status};

/// `mvirt.net.NetService`.
#[derive(Debug, Clone)]
pub struct Service {
    control: Handle,
}

impl From<Gone> for Status {
    fn from(gone: Gone) -> Self {
        Self::unavailable(gone.to_string())
    }
}

impl Service {
    /// Serves `control`.
    pub fn new(control: Handle) -> Self {
        Self { control }
    }

    async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Control) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Status> {
        Ok(self.control.call(request).await??)
    }
}

async fn close(closing: impl IntoIterator<Item = Listening>) {
    for listening in closing {
        listening.close().await;
    }
}

/// The id or name of an object that must be told.
fn told(what: &'static str, key: String) -> Result<String, Refusal> {
    if key.is_empty() {
        Err(Refusal::invalid(what, key, "required: an id or a name"))
    } else {
        Ok(key)
    }
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The present first, then every change; a watcher that falls behind is told so and disconnected.
fn watch<T: Clone + Send + 'static>(
    present: Vec<T>,
    changes: broadcast::Receiver<T>,
) -> Response<Events<T>> {
    let changes = BroadcastStream::new(changes).map(|change| {
        change.map_err(|lost| {
            Status::resource_exhausted(format!("the watcher is too slow ({lost}): watch again"))
        })
    });
    let mut failed = false;
    let changes =
        changes.take_while(move |change| !std::mem::replace(&mut failed, change.is_err()));
    Response::new(Box::pin(tokio_stream::iter(present.into_iter().map(Ok)).chain(changes)))
}

#[tonic::async_trait]
impl NetService for Service {
    async fn get_version(
        &self,
        _request: Request<proto::GetVersionRequest>,
    ) -> Result<Response<proto::VersionInfo>, Status> {
        Ok(Response::new(proto::VersionInfo { version: env!("CARGO_PKG_VERSION").into() }))
    }

    async fn create_network(
        &self,
        request: Request<proto::CreateNetworkRequest>,
    ) -> Result<Response<proto::Network>, Status> {
        let request = request.into_inner();
        self.call(|control| control.create_network(request)).await.map(Response::new)
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
        let key = told("identifier", key)?;
        self.call(move |control| control.get_network(&key)).await.map(Response::new)
    }

    async fn list_networks(
        &self,
        _request: Request<proto::ListNetworksRequest>,
    ) -> Result<Response<proto::ListNetworksResponse>, Status> {
        let networks = self.call(|control| Ok(control.list_networks())).await?;
        Ok(Response::new(proto::ListNetworksResponse { networks }))
    }

    async fn update_network(
        &self,
        request: Request<proto::UpdateNetworkRequest>,
    ) -> Result<Response<proto::Network>, Status> {
        let mut request = request.into_inner();
        request.id = told("id", request.id)?;
        self.call(move |control| control.update_network(&request)).await.map(Response::new)
    }

    async fn delete_network(
        &self,
        request: Request<proto::DeleteNetworkRequest>,
    ) -> Result<Response<proto::DeleteNetworkResponse>, Status> {
        let mut request = request.into_inner();
        request.id = told("id", request.id)?;
        let (response, closing) =
            self.call(move |control| control.delete_network(&request)).await?;
        close(closing).await;
        Ok(Response::new(response))
    }

    async fn create_nic(
        &self,
        request: Request<proto::CreateNicRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        let request = request.into_inner();
        self.call(|control| control.create_nic(request)).await.map(Response::new)
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
        let key = told("identifier", key)?;
        self.call(move |control| control.get_nic(&key)).await.map(Response::new)
    }

    async fn list_nics(
        &self,
        request: Request<proto::ListNicsRequest>,
    ) -> Result<Response<proto::ListNicsResponse>, Status> {
        let network = request.into_inner().network_id;
        let nics = self.call(move |control| control.list_nics(&network)).await?;
        Ok(Response::new(proto::ListNicsResponse { nics }))
    }

    async fn update_nic(
        &self,
        request: Request<proto::UpdateNicRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        let mut request = request.into_inner();
        request.id = told("id", request.id)?;
        self.call(move |control| control.update_nic(&request)).await.map(Response::new)
    }

    async fn set_nic_limits(
        &self,
        request: Request<proto::SetNicLimitsRequest>,
    ) -> Result<Response<proto::Nic>, Status> {
        let mut request = request.into_inner();
        request.id = told("id", request.id)?;
        self.call(move |control| control.set_nic_limits(&request)).await.map(Response::new)
    }

    async fn delete_nic(
        &self,
        request: Request<proto::DeleteNicRequest>,
    ) -> Result<Response<proto::DeleteNicResponse>, Status> {
        let id = told("id", request.into_inner().id)?;
        close(self.call(move |control| control.delete_nic(&id)).await?).await;
        Ok(Response::new(proto::DeleteNicResponse { deleted: true }))
    }

    async fn get_nic_stats(
        &self,
        request: Request<proto::GetNicStatsRequest>,
    ) -> Result<Response<proto::NicStats>, Status> {
        let id = told("id", request.into_inner().id)?;
        self.call(move |control| control.nic_stats(&id)).await.map(Response::new)
    }

    async fn list_reactors(
        &self,
        _request: Request<proto::ListReactorsRequest>,
    ) -> Result<Response<proto::ListReactorsResponse>, Status> {
        let reactors = self.call(|control| Ok(control.list_reactors())).await?;
        Ok(Response::new(proto::ListReactorsResponse { reactors }))
    }

    type WatchNicsStream = Events<proto::NicEvent>;

    async fn watch_nics(
        &self,
        _request: Request<proto::WatchNicsRequest>,
    ) -> Result<Response<Self::WatchNicsStream>, Status> {
        let (present, changes) = self.control.call(|control| control.watch_nics()).await?;
        Ok(watch(present, changes))
    }

    type WatchNetworksStream = Events<proto::NetworkEvent>;

    async fn watch_networks(
        &self,
        _request: Request<proto::WatchNetworksRequest>,
    ) -> Result<Response<Self::WatchNetworksStream>, Status> {
        let (present, changes) = self.control.call(|control| control.watch_networks()).await?;
        Ok(watch(present, changes))
    }
}
