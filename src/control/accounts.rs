//! Users and groups by name or number, who are to own vNICs' sockets.

use super::refusal::Refusal;
use crate::model::Account;

/// Those that a request names.
#[derive(Debug, Default)]
pub struct Accounts {
    /// A user.
    pub(super) owner: Option<Account>,
    /// A group.
    pub(super) group: Option<Account>,
}

impl Accounts {
    /// Looks them up. Names may be asked of the network (nsswitch.conf), so Control does not wait for that.
    pub(super) async fn find(owner: &str, group: &str) -> Result<Self, Refusal> {
        let user = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
        let named = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
        Ok(Self {
            owner: account("socket_owner", owner, user).await?,
            group: account("socket_group", group, named).await?,
        })
    }
}

async fn account(
    field: &'static str,
    asked: &str,
    by_name: impl FnOnce(&str) -> Option<u32> + Send + 'static,
) -> Result<Option<Account>, Refusal> {
    if asked.is_empty() {
        return Ok(None);
    }
    // The last number says "leave it as it is" to chown(2).
    let number = asked.parse().ok().filter(|number| *number != u32::MAX);
    let name = asked.to_owned();
    let number = match number {
        Some(number) => Some(number),
        None => tokio::task::spawn_blocking(move || by_name(&name)).await.ok().flatten(),
    };
    match number {
        Some(number) => Ok(Some(Account { asked: asked.into(), number })),
        None => {
            Err(Refusal::invalid(field, asked, "expected a name that this host knows, or a number"))
        }
    }
}
