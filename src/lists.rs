//! Lists of the API, which come in pages.

use crate::proto;
use prost::Message;

/// Objects that a page has at most, as where a client asks for all of a list.
pub(crate) const MOST: u32 = 1000;

/// A request for a list, in pages or not.
pub trait ListRequest: Clone + Send + 'static {
    /// What answers it.
    type Response: ListResponse;

    /// How many objects a page has; 0: all of the list is wanted at once.
    fn size(&mut self) -> &mut u32;
    /// Where the page begins.
    fn token(&mut self) -> &mut String;
}

/// A list, or a page of it.
pub trait ListResponse: Message + 'static {
    /// Where the next page begins; empty where this is the last one.
    fn next(&mut self) -> &mut String;
    /// Appends the next page.
    fn join(&mut self, next: Self);
}

/// Returns a whole list, asked for in pages: all at once may be refused.
///
/// # Errors
/// As `page`, which asks for one.
pub async fn all<R: ListRequest, E>(
    mut request: R,
    mut page: impl AsyncFnMut(R) -> Result<R::Response, E>,
) -> Result<R::Response, E> {
    *request.size() = MOST;
    let mut list = page(request.clone()).await?;
    while !list.next().is_empty() {
        *request.token() = std::mem::take(list.next());
        list.join(page(request.clone()).await?);
    }
    Ok(list)
}

macro_rules! lists {
    ($($request:ident -> $response:ident { $objects:ident })*) => {$(
        impl ListRequest for proto::$request {
            type Response = proto::$response;

            fn size(&mut self) -> &mut u32 {
                &mut self.page_size
            }

            fn token(&mut self) -> &mut String {
                &mut self.page_token
            }
        }

        impl ListResponse for proto::$response {
            fn next(&mut self) -> &mut String {
                &mut self.next_page_token
            }

            fn join(&mut self, next: Self) {
                self.$objects.extend(next.$objects);
                self.next_page_token = next.next_page_token;
            }
        }
    )*};
}

lists! {
    ListNetworksRequest -> ListNetworksResponse { networks }
    ListNicsRequest -> ListNicsResponse { nics }
    ListPortsRequest -> ListPortsResponse { ports }
    ListForwardsRequest -> ListForwardsResponse { forwards }
    ListFloatingIpsRequest -> ListFloatingIpsResponse { floating_ips }
    ListLoadBalancersRequest -> ListLoadBalancersResponse { load_balancers }
}
