//! What the daemon says while it is watched: all of its streams as one.

use super::state::News;
use crate::{Failure, connect::Client};
use mvirt_net::proto::{
    WatchDropsRequest, WatchEventsRequest, WatchNetworksRequest, WatchNicsRequest,
    WatchPortsRequest, WatchStatsRequest,
};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, Response, Status, Streaming};

/// News that wait to be taken.
const UNREAD: usize = 1024;

/// All streams, until it is dropped.
#[derive(Debug)]
pub(super) struct Feed {
    news: mpsc::Receiver<Result<News, Status>>,
    /// They end with it.
    _streams: JoinSet<()>,
}

impl Feed {
    /// Begins to watch. Counts come at intervals.
    pub(super) fn begin(client: &Client, interval: Duration) -> Self {
        let (sender, news) = mpsc::channel(UNREAD);
        let mut streams = JoinSet::new();
        macro_rules! watch {
            ($method:ident, $request:expr, $news:path) => {{
                let (mut client, sender, request) = (client.clone(), sender.clone(), $request);
                streams.spawn(async move {
                    let stream = client.$method(request).await;
                    follow(stream, $news, sender).await;
                });
            }};
        }
        watch!(watch_networks, WatchNetworksRequest::default(), News::Network);
        let request = WatchNicsRequest { mark_synced: true, ..Default::default() };
        watch!(watch_nics, request, News::Nic);
        let request = WatchPortsRequest { mark_synced: true, ..Default::default() };
        watch!(watch_ports, request, News::Port);
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        let request = WatchStatsRequest { interval_ms, ..Default::default() };
        watch!(watch_stats, request, News::Stats);
        watch!(watch_drops, WatchDropsRequest::default(), News::Drops);
        watch!(watch_events, WatchEventsRequest::default(), News::Event);
        Self { news, _streams: streams }
    }

    /// Returns what comes next. An error: there is no more, since the connection is lost.
    pub(super) async fn next(&mut self) -> Result<News, Failure> {
        match self.news.recv().await {
            Some(news) => Ok(news?),
            None => Err(Status::unavailable("the connection has ended").into()),
        }
    }
}

/// Hands on what comes by a stream, until it ends.
async fn follow<T>(
    stream: Result<Response<Streaming<T>>, Status>,
    news: fn(T) -> News,
    sender: mpsc::Sender<Result<News, Status>>,
) {
    let mut stream = match stream {
        Ok(stream) => stream.into_inner(),
        // An older daemon does not know it: what it would tell is missing.
        Err(status) if status.code() == Code::Unimplemented => return,
        Err(status) => return drop(sender.send(Err(status)).await),
    };
    loop {
        let told = match stream.message().await {
            Ok(Some(told)) => Ok(news(told)),
            Ok(None) => Err(Status::unavailable("the connection has ended")),
            Err(status) => Err(status),
        };
        let is_over = told.is_err();
        if sender.send(told).await.is_err() || is_over {
            return;
        }
    }
}
