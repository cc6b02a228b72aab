//! The octets of requests and answers: those of a request are counted as they come, and only whole
//! ones are handled; those of an answer are made at once, and handed on in pieces as its client
//! takes them.

use super::{
    account::{Account, Answer},
    budget::Octets,
};
use http_body::Frame;
use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, http::HeaderMap},
};

/// Octets of the longest request.
pub(super) const MAX_REQUEST: usize = 1 << 20;
/// With what gRPC puts before it: whether it is compressed, and its length.
const MAX_BODY: usize = 5 + MAX_REQUEST;
/// Octets that each request may have, whatever its peer sends besides: most need no more.
const FREE: usize = 4 << 10;
/// Octets of an answer that are handed on at a time.
// As much as the first window of an HTTP/2 stream (RFC 9113 §6.9.2): the next piece is asked for
// when its client has read, which is how it is seen to go on.
const PIECE: usize = 64 << 10;

/// The octets of a request, counted.
pub(super) struct Metered {
    body: Body,
    account: Arc<Account>,
    octets: usize,
    /// Given back with the request.
    taken: Octets,
}

impl Metered {
    pub(super) fn new(body: Body, account: Arc<Account>) -> Self {
        Self { body, account, octets: 0, taken: Octets::default() }
    }

    fn count(&mut self, more: usize) -> Result<(), Status> {
        let counted = self.octets.max(FREE);
        self.octets += more;
        if self.octets > MAX_BODY {
            let said = format!("a request may be {MAX_REQUEST} octets long, and this is longer");
            return Err(Status::out_of_range(said));
        }
        match self.octets.saturating_sub(counted) {
            0 => Ok(()),
            beyond => self.account.budget().take(beyond, &mut self.taken),
        }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &poll {
            let more = frame.data_ref().map_or(0, Bytes::len);
            if let Err(refused) = self.count(more) {
                return Poll::Ready(Some(Err(refused)));
            }
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// All that a request or an answer is.
pub(super) struct Whole {
    octets: Bytes,
    trailers: Option<HeaderMap>,
    answer: Option<Arc<Answer>>,
}

impl Whole {
    /// Waits for the end of what comes.
    pub(super) async fn of<B>(body: &mut B) -> Result<Self, Status>
    where
        B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
    {
        let mut whole = Self { octets: Bytes::new(), trailers: None, answer: None };
        // One piece, as answers are, is not copied; many small ones are not kept as such.
        let mut joined = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            match frame?.into_data() {
                Ok(octets) if whole.octets.is_empty() => whole.octets = octets,
                Ok(octets) => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&whole.octets);
                    }
                    joined.extend_from_slice(&octets);
                }
                Err(frame) => whole.trailers = frame.into_trailers().ok().or(whole.trailers),
            }
        }
        if !joined.is_empty() {
            whole.octets = joined.into();
        }
        Ok(whole)
    }

    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Keeps `answer` until the last of its octets is sent.
    pub(super) fn unread(mut self, answer: Answer) -> Self {
        let answer = Arc::new(answer);
        let octets = mem::take(&mut self.octets);
        // The connection keeps pieces after they are handed on: the octets themselves tell when
        // they are gone.
        self.octets = Bytes::from_owner(Unsent { octets, _answer: Arc::clone(&answer) });
        self.answer = Some(answer);
        self
    }
}

struct Unsent {
    octets: Bytes,
    _answer: Arc<Answer>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Polled when the client's window has room: it reads.
        if let Some(answer) = &self.answer {
            answer.goes_on(Instant::now());
        }
        Poll::Ready(if self.octets.is_empty() {
            self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
        } else {
            let piece = self.octets.len().min(PIECE);
            Some(Ok(Frame::data(self.octets.split_to(piece))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_empty() && self.trailers.is_none()
    }
}
