//! What the service manager has kept of vNICs and ports while no process of the daemon was there
//! (`descriptor_store.rs`): it is taken over, as from another process.

use super::{Control, Whose};
use crate::{
    dataplane::Exported,
    descriptor_store::{DescriptorStore, Kept, Slot},
};
use uuid::Uuid;

impl Control {
    /// Has descriptors of what is opened from now on kept in `store`.
    pub fn keep_in(&mut self, store: DescriptorStore) {
        self.kept_in = store;
    }

    /// Returns the place in the store of what is called `name`.
    pub(super) fn slot(&self, name: Uuid, whose: &Whose) -> Slot {
        // It has neither maps nor what could not be written.
        let text = serde_json::to_vec(whose).unwrap_or_default();
        self.kept_in.slot(name.to_string(), text)
    }

    /// Goes on with what was kept. What is not stored any more, or cannot go on, is let go, and is
    /// opened as any other.
    pub fn take_back(&mut self, kept: Vec<Kept>) {
        let read = kept.into_iter().filter_map(|kept| {
            let whose: Option<Whose> = serde_json::from_slice(&kept.whose).ok();
            whose.map(|whose| (whose, kept))
        });
        // Who is connected to a port comes after it.
        let (clients, others): (Vec<_>, Vec<_>) =
            read.partition(|(whose, _)| matches!(whose, Whose::Client { .. }));
        for (whose, Kept { name, fds, .. }) in others.into_iter().chain(clients) {
            let count = fds.len();
            let goes_on = self.is_stored(&whose)
                && match self.take_over(whose, Exported::kept(fds)) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(name, %error, "what the service manager kept is of no use");
                        false
                    }
                };
            if !goes_on {
                let mut slot = self.kept_in.slot(name, Vec::new());
                slot.has(count);
                slot.forget();
            }
        }
    }

    fn is_stored(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Nic { id, .. } => self.nics.contains_key(id),
            // It is kept by the kernel.
            Whose::Outside => false,
            Whose::Port { id } | Whose::Client { port: id, .. } => self.ports.contains_key(id),
        }
    }
}
