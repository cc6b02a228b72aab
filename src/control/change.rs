//! The one path of a change: decided, stored, and then in force.
//!
//! ```text
//! decide(&Control) ─▶ prepare ─▶ Store::commit ─▶ apply ─▶ reply
//!    │ Refusal           │ Refusal     │ StoreError: abandon what was prepared
//! ```
//! A request decides and changes nothing. Requests that wait at the same time are committed
//! together, where their changes do not rest on one another: creations of vNICs, or deletions of
//! vNICs (docs/decisions/0009).

use super::{Control, refusal::Refusal};
use crate::{
    dataplane::Closing,
    store::{Change, StoreError},
};
use std::time::Instant;
use tokio::sync::oneshot;

/// Sends an answer to who waits for it.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
type Reply<T> = Box<dyn FnOnce(&Control) -> T + Send>;

/// What a request comes to.
pub struct Decided<T> {
    /// Absent: everything stays as it is.
    change: Option<Change>,
    /// Answers it, once the change is in force.
    reply: Reply<T>,
}

impl<T> std::fmt::Debug for Decided<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decided").field("change", &self.change).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Decided<T> {
    pub(super) fn new(change: Change, reply: impl FnOnce(&Control) -> T + Send + 'static) -> Self {
        Self { change: Some(change), reply: Box::new(reply) }
    }

    /// With this answer, and without a change.
    pub(super) fn unchanged(answer: T) -> Self {
        Self { change: None, reply: Box::new(|_| answer) }
    }
}

impl Control {
    /// Makes changes durable, or says that changes cannot be.
    pub(super) fn commit(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let began = Instant::now();
        let result = self.busy.during(|| self.store.commit(changes));
        self.telemetry.stored(result.is_ok(), began.elapsed());
        self.note_stored(&result);
        result
    }

    /// Does what must precede a commit, and can be undone.
    fn prepare(&mut self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::PutNic(nic) => match &nic.old {
                // What is decided next must find its name and addresses taken.
                None => {
                    self.prepare_egress(change)?;
                    self.adopt_nic(nic.new.clone());
                }
                // What the file system refuses must not be in force after a restart.
                Some(old) => {
                    self.prepare_egress(change)?;
                    self.give_socket(old, &nic.new)?;
                }
            },
            Change::PutPort(port) => {
                if port.old.is_none() {
                    self.adopt_port(port.new.clone());
                }
            }
            Change::PutNetwork(_)
            | Change::PutForward(_)
            | Change::PutFloatingIp(_)
            | Change::PutLoadBalancer(_) => {
                self.prepare_egress(change)?;
            }
            Change::PutLeases(_)
            | Change::DeleteNetwork { .. }
            | Change::DeleteNic { .. }
            | Change::DeletePort(_)
            | Change::DeleteForward(_)
            | Change::DeleteFloatingIp(_)
            | Change::DeleteLoadBalancer(_) => {}
        }
        Ok(())
    }

    /// Undoes what `prepare` has done for a change that is not stored.
    fn abandon(&mut self, change: &Change) {
        let nic = match change {
            Change::PutNic(nic) => nic,
            Change::PutPort(port) if port.old.is_none() => return self.forget_port(port.new.id),
            _ => return,
        };
        match &nic.old {
            None => self.forget_nic(nic.new.id),
            Some(old) => {
                if let Err(error) = self.give_socket(&nic.new, old) {
                    tracing::warn!(
                        nic = old.name.as_str(), %error,
                        "the socket's owner, group and mode stay changed until the next start"
                    );
                }
            }
        }
    }

    /// Puts a change in force that is stored. Only a new vNIC or port can be refused now: its
    /// socket, or what it is made of.
    fn apply(&mut self, change: Change) -> Result<(), Refusal> {
        match change {
            Change::PutNetwork(network) => self.apply_network(*network),
            Change::PutNic(nic) => match nic.old {
                None => return self.begin_nic(&nic.new),
                Some(old) => self.change_nic(&old, nic.new),
            },
            Change::PutPort(port) => match port.old {
                None => return self.begin_port(&port.new),
                Some(old) => self.change_port(&old, port.new),
            },
            // Is in force already (`store_leases`).
            Change::PutLeases(_) => {}
            Change::PutForward(forward) => self.apply_forward(*forward),
            Change::PutFloatingIp(floating) => self.apply_floating_ip(*floating),
            Change::PutLoadBalancer(balancer) => self.apply_balancer(*balancer),
            Change::DeleteNetwork { id, nics, ports, with } => {
                self.apply_network_deletion(id, (&nics, &ports), &with);
            }
            Change::DeleteNic { id, with } => self.apply_nic_deletion(id, &with),
            Change::DeletePort(id) => self.apply_port_deletion(id),
            Change::DeleteForward(id) => self.forget_forward(id),
            Change::DeleteFloatingIp(id) => self.forget_floating_ip(id),
            Change::DeleteLoadBalancer(id) => self.forget_balancer(id),
        }
        Ok(())
    }
}

/// A request that may change something.
pub(super) trait Request: Send {
    /// Decides, anew each time. Returns what is to be changed.
    fn decide(&mut self, control: &Control) -> Option<Change>;
    /// Answers as was decided last, now that the change is in force or was refused.
    fn answer(self: Box<Self>, control: &Control, outcome: Result<(), Refusal>) -> Answer;
}

/// One whose answer is waited for.
pub(super) struct Waiting<D, T> {
    decide: D,
    reply: Option<Result<Reply<T>, Refusal>>,
    answer: oneshot::Sender<Result<T, Refusal>>,
}

impl<D, T> Waiting<D, T> {
    pub(super) fn new(decide: D, answer: oneshot::Sender<Result<T, Refusal>>) -> Self {
        Self { decide, reply: None, answer }
    }
}

impl<D, T> Request for Waiting<D, T>
where
    D: Fn(&Control) -> Result<Decided<T>, Refusal> + Send,
    T: Send + 'static,
{
    fn decide(&mut self, control: &Control) -> Option<Change> {
        match (self.decide)(control) {
            Ok(Decided { change, reply }) => {
                self.reply = Some(Ok(reply));
                change
            }
            Err(refusal) => {
                self.reply = Some(Err(refusal));
                None
            }
        }
    }

    fn answer(self: Box<Self>, control: &Control, outcome: Result<(), Refusal>) -> Answer {
        let Self { reply, answer, .. } = *self;
        let reply = outcome.and_then(|()| reply.expect("it is decided before it is answered"));
        let result = reply.map(|reply| reply(control));
        // A caller that has gone away does not want the answer.
        Box::new(move || drop(answer.send(result)))
    }
}

/// Requests that are decided and wait to be committed together, and the answers of earlier ones.
#[derive(Default)]
pub(super) struct Batch {
    decided: Vec<(Box<dyn Request>, Option<Change>)>,
    /// Each waits until the VMMs of the vNICs that were deleted for it are gone.
    pub(super) answers: Vec<(Answer, Vec<Closing>)>,
}

impl Batch {
    /// Decides a request. What does not go together with the requests before waits for these.
    pub(super) fn add(&mut self, mut request: Box<dyn Request>, control: &mut Control) {
        let mut change = request.decide(control);
        if change.as_ref().is_some_and(|change| !self.admits(change)) {
            self.commit(control);
            // What it rested on may have been refused.
            change = request.decide(control);
        }
        match change.as_ref().map_or(Ok(()), |change| control.prepare(change)) {
            // Without a change, too: it may have been decided so because of one that is refused.
            Ok(()) => self.decided.push((request, change)),
            Err(refusal) => self.answer(request, control, Err(refusal)),
        }
    }

    /// Whether a change can be committed with those that wait: whichever of them are there after a
    /// crash, they agree.
    fn admits(&self, change: &Change) -> bool {
        let creates = |change: &Change| matches!(change, Change::PutNic(nic) if nic.old.is_none());
        self.decided.iter().filter_map(|(_, decided)| decided.as_ref()).all(|decided| {
            match (decided, change) {
                // It was not found, so it is not the same one.
                _ if creates(decided) => creates(change),
                (Change::DeleteNic { id: decided, .. }, Change::DeleteNic { id, .. }) => {
                    decided != id
                }
                _ => false,
            }
        })
    }

    /// Stores all changes together, and answers all requests.
    pub(super) fn commit(&mut self, control: &mut Control) {
        let decided = std::mem::take(&mut self.decided);
        let changes: Vec<_> = decided.iter().filter_map(|(_, change)| change.as_ref()).collect();
        let stored = if changes.is_empty() { Ok(()) } else { control.commit(&changes) };
        let Err(error) = stored else {
            let mut is_one_refused = false;
            for (request, change) in decided {
                let Some(change) = change else {
                    // It may have been decided so because of what is not there after all.
                    if is_one_refused {
                        self.decide_anew(request, control);
                    } else {
                        self.answer(request, control, Ok(()));
                    }
                    continue;
                };
                let applied = control.will_have_changed(&change);
                let outcome = control.apply(change);
                if let (Ok(()), Some(applied)) = (&outcome, applied) {
                    control.events.note(applied);
                }
                is_one_refused |= outcome.is_err();
                self.answer(request, control, outcome);
            }
            return;
        };
        changes.into_iter().rev().for_each(|change| control.abandon(change));
        match <[_; 1]>::try_from(decided) {
            Ok([(request, _)]) => self.answer(request, control, Err(error.into())),
            // One of them may be at fault. Each by itself, decided anew: others may have been
            // refused for what is now taken back.
            Err(several) => {
                several.into_iter().for_each(|(request, _)| self.decide_anew(request, control));
            }
        }
    }

    /// Decides a request again, and commits it by itself.
    fn decide_anew(&mut self, request: Box<dyn Request>, control: &mut Control) {
        self.add(request, control);
        self.commit(control);
    }

    fn answer(
        &mut self,
        request: Box<dyn Request>,
        control: &mut Control,
        outcome: Result<(), Refusal>,
    ) {
        let answer = request.answer(control, outcome);
        self.answers.push((answer, control.take_closing()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rig::Rig;

    fn is_named(change: &Change, name: &str) -> bool {
        matches!(change, Change::PutNic(nic) if nic.new.name.as_str() == name)
    }

    fn is_not_stored<T>(answer: &Result<T, Refusal>) -> bool {
        matches!(answer, Err(Refusal::Store(_)))
    }

    #[test]
    fn creations_that_wait_are_stored_together() {
        let rig = Rig::new();
        let created: Vec<_> = (0..64).map(|n| rig.create(&format!("n{n}"), "")).collect();
        (0..2).for_each(|_| rig.say(|_| true));
        let addresses = created.into_iter().map(|nic| rig.answer(nic).unwrap().ipv4_address);
        let expected: Vec<_> = (2..66).map(|n| format!("10.0.0.{n}")).collect();
        assert_eq!(addresses.collect::<Vec<_>>(), expected);
        assert_eq!(rig.end(), [1, 64]);
    }

    #[test]
    fn a_store_that_takes_nothing_leaves_nothing_changed() {
        let rig = Rig::new();
        let created: Vec<_> = (0..64).map(|n| rig.create(&format!("n{n}"), "")).collect();
        rig.say(|_| true);
        // All together, then each by itself.
        (0..65).for_each(|_| rig.say(|_| false));
        assert!(created.into_iter().all(|nic| is_not_stored(&rig.answer(nic))));
        assert_eq!(rig.listed(), [("first".into(), "10.0.0.1".into())]);
        rig.say(|_| true);
        let nic = rig.answer(rig.create("n0", "")).unwrap();
        assert_eq!(nic.ipv4_address, "10.0.0.2", "addresses are free again");
        rig.end();
    }

    #[test]
    fn what_one_change_suffers_costs_no_other() {
        let rig = Rig::new();
        let created = ["a", "bad", "c"].map(|name| rig.create(name, ""));
        for _ in 0..5 {
            rig.say(|changes| !changes.iter().any(|change| is_named(change, "bad")));
        }
        let [a, bad, c] = created.map(|nic| rig.answer(nic));
        assert!(is_not_stored(&bad));
        assert_eq!([a, c].map(|nic| nic.unwrap().ipv4_address), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(rig.end(), [1, 3, 1, 1, 1]);
    }

    #[test]
    fn what_rested_on_a_change_that_failed_is_decided_anew() {
        const ID: &str = "22222222-2222-4222-8222-222222222222";
        let rig = Rig::new();
        let failing = rig.create("bad", ID);
        // This id is taken by then, and free again when that has failed.
        let other = rig.create("other", ID);
        for _ in 0..4 {
            rig.say(|changes| !changes.iter().any(|change| is_named(change, "bad")));
        }
        assert!(is_not_stored(&rig.answer(failing)));
        assert_eq!(rig.answer(other).unwrap().id, ID);
        rig.end();
    }

    #[test]
    fn what_rested_on_a_socket_that_cannot_be_made_is_decided_anew() {
        const ID: &str = "22222222-2222-4222-8222-222222222222";
        let rig = Rig::new();
        // What no socket can be renamed to.
        let obstacle = rig.sockets.path().join(format!("{ID}.sock"));
        std::fs::create_dir(&obstacle).unwrap();
        let failing = rig.create("a", ID);
        // The same request, as a client repeats it; and another that wants its name.
        let again = rig.create("a", ID);
        let namesake = rig.create("a", "");
        // The first vNIC, the second, its deletion; the same of the third; the fourth.
        (0..6).for_each(|_| rig.say(|_| true));
        let (failing, again) = (rig.answer(failing), rig.answer(again));
        assert!(failing.is_err() && again.is_err(), "{failing:?} {again:?}");
        assert_eq!(rig.answer(namesake).unwrap().name, "a");
        assert_eq!(rig.listed().len(), 2);
        assert_eq!(rig.end(), [1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn changes_that_rest_on_one_another_are_stored_one_after_the_other() {
        let rig = Rig::new();
        let a = rig.create("a", "");
        let gone = rig.delete("first");
        let again = rig.delete("first");
        // It may have the address that is free now.
        let b = rig.create("b", "");
        (0..4).for_each(|_| rig.say(|_| true));
        assert_eq!(rig.answer(a).unwrap().ipv4_address, "10.0.0.2");
        assert!(rig.answer(gone).unwrap().deleted);
        assert!(matches!(rig.answer(again), Err(Refusal::NotFound { .. })));
        assert_eq!(rig.answer(b).unwrap().ipv4_address, "10.0.0.1");
        assert_eq!(rig.end(), [1, 1, 1, 1]);
    }
}
