//! Who may ask: whoever knows the token, where there is one; and no page of another site, which a
//! browser of somebody who may would ask in their name.

use super::{super::answer::Refused, token::Token};
use crate::{
    log_limit::{LogLimit, Said},
    mutex::lock,
    printable::printable,
};
use hyper::{Request, StatusCode, header};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

/// What our own page sends along. Another site's cannot without being let to (Fetch standard,
/// CORS-preflight), and it is not.
const OURS: &str = "mvirt-console";

/// Of one console.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    token: Option<Token>,
    log: Arc<Mutex<LogLimit>>,
}

impl Admission {
    pub(super) fn new(token: Option<Token>) -> Self {
        Self { token, log: Arc::default() }
    }

    /// Refuses who may not read.
    pub(super) fn check<B>(&self, request: &Request<B>, peer: SocketAddr) -> Result<(), Refused> {
        let headers = request.headers();
        // As browsers say it themselves (Fetch Metadata); "none": somebody has typed the address.
        if let Some(from) = headers.get("sec-fetch-site")
            && !["same-origin", "none"].iter().any(|known| from.as_bytes() == known.as_bytes())
        {
            let from = printable(from.to_str().unwrap_or_default());
            let why = format!("Sec-Fetch-Site: {from:.40}: expected same-origin");
            return Err(Refused(StatusCode::FORBIDDEN, why));
        }
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(header::AUTHORIZATION);
        if shown.is_some_and(|shown| token.is_in(shown.as_bytes())) {
            return Ok(());
        }
        // Whoever shows none may not know yet that there is one.
        if shown.is_some()
            && let Some(Said { unsaid }) = lock(&self.log).line(Instant::now())
        {
            tracing::warn!(%peer, unsaid, "a wrong token was shown to --http");
        }
        let why = "expected Authorization: Bearer and the token of --http-token";
        Err(Refused(StatusCode::UNAUTHORIZED, why.into()))
    }

    /// Refuses, of what is more than reading, what a page of another site could bring about.
    pub(super) fn check_deed<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        // A token is in a header already that no other site can send.
        if self.token.is_some() || request.headers().contains_key(OURS) {
            return Ok(());
        }
        Err(Refused(StatusCode::FORBIDDEN, format!("expected the header {OURS}, like {OURS}: 1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let with = |builder: hyper::http::request::Builder, (name, value): &(&str, &str)| {
            builder.header(*name, *value)
        };
        headers.iter().fold(Request::builder(), with).body(()).unwrap()
    }

    #[test]
    fn a_page_of_another_site_reads_and_does_nothing() {
        let peer = "127.0.0.1:1".parse().unwrap();
        let open = Admission::new(None);
        for fine in [&[][..], &[("Sec-Fetch-Site", "same-origin")], &[("Sec-Fetch-Site", "none")]] {
            assert!(open.check(&request(fine), peer).is_ok(), "{fine:?}");
            assert!(open.check_deed(&request(fine)).is_err(), "{fine:?}");
        }
        for other in ["cross-site", "same-site", "", "same-origin, none"] {
            assert!(open.check(&request(&[("Sec-Fetch-Site", other)]), peer).is_err(), "{other}");
        }
        assert!(open.check_deed(&request(&[("Mvirt-Console", "1")])).is_ok());
    }
}
