//! The console: a page for a browser, and what it shows.
//!
//! ```text
//! /               page/index.html, and what that names
//! /api/WHAT       messages of the API, as `mvirt -o json` prints them
//! /api/live       what changes and what is carried, as server-sent events
//! /api/capture    frames, as pcapng
//! ```
//! It asks what a client of the API would ask, and changes nothing. What nobody looks at costs
//! nothing: each page has one stream, and closes it when it is hidden. Many that look cost what one
//! does: what is counted each second is counted for all.

mod admit;
mod assets;
mod capture;
mod lean;
mod live;
mod messages;
mod query;
pub mod token;

use super::answer::{Answer, Refused, only};
use crate::control::{Handle, service::Service};
use admit::Admission;
use hyper::{Method, Request, body::Incoming};
use live::Live;
use query::Query;
use std::net::SocketAddr;
use token::Token;

/// What it serves, and to whom.
#[derive(Debug, Clone)]
pub struct Console {
    service: Service,
    admission: Admission,
    live: Live,
}

impl Console {
    /// Shows what `control` has; to those who know `token`, where there is one.
    pub fn new(control: Handle, token: Option<Token>) -> Self {
        let service = Service::new(control);
        Self { service, admission: Admission::new(token), live: Live::default() }
    }

    /// Answers a GET, or a HEAD.
    pub(super) async fn answer(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Answer, Refused> {
        let path = request.uri().path();
        let Some(path) = path.strip_prefix("/api/") else {
            return assets::find(path).ok_or_else(|| Refused::unknown("/ or /api/…"));
        };
        self.admission.check(request, peer)?;
        // What is done while it is read has no head alone.
        if ["live", "capture"].contains(&path) && request.method() != Method::GET {
            return Ok(only("GET"));
        }
        let query = Query::of(request.uri().query().unwrap_or_default())?;
        match path {
            "live" => {
                query.end()?;
                self.live.follow(&self.service).await
            }
            "capture" => {
                self.admission.check_deed(request)?;
                capture::begin(&self.service, query, peer).await
            }
            "explain" => {
                self.admission.check_deed(request)?;
                messages::explain(&self.service, query).await
            }
            _ => messages::get(&self.service, path, query).await,
        }
    }
}
