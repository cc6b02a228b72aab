//! Users and groups by name or number, who are to own vNICs' sockets.

use super::refusal::Refusal;
use crate::{
    account::{Group, User},
    model::Account,
};

/// Those that a request names.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// A user.
    pub(super) owner: Option<Account>,
    /// A group.
    pub(super) group: Option<Account>,
}

impl Accounts {
    /// Looks them up. Names may be asked of the network (nsswitch.conf), so Control does not wait
    /// for that.
    pub(super) async fn find(owner: &str, group: &str) -> Result<Self, Refusal> {
        let user = |text: &str| text.parse().map(|User(number)| number);
        let group_of = |text: &str| text.parse().map(|Group(number)| number);
        Ok(Self {
            owner: account("socket_owner", owner, user).await?,
            group: account("socket_group", group, group_of).await?,
        })
    }
}

async fn account(
    field: &'static str,
    asked: &str,
    parse: impl FnOnce(&str) -> Result<u32, String> + Send + 'static,
) -> Result<Option<Account>, Refusal> {
    if asked.is_empty() {
        return Ok(None);
    }
    let text = asked.to_owned();
    // getpwnam(3) and getgrnam(3) block for as long as a name service likes.
    match tokio::task::spawn_blocking(move || parse(&text)).await {
        // The number is kept too: a socket gets it also when the name is no more.
        Ok(Ok(number)) => Ok(Some(Account { asked: asked.into(), number })),
        _ => {
            Err(Refusal::invalid(field, asked, "expected a name that this host knows, or a number"))
        }
    }
}
