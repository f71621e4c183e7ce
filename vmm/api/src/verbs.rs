//! The table of verbs. A row here and a [`Service`] that serves it make a verb: its route, its part of the OpenAPI document and
//! the checks on both follow.

use serde_json::Value;

use crate::service::{Route, Service};
use crate::verb::Description;
use crate::{
    Action, Event, Info, Method, Pace, PrometheusText, ProtectRequest, Protection, Since, Snapshot, SnapshotRequest,
    Status, Switchover, SwitchoverRequest, TakeOverRequest, Verb, Version, VmState, WitnessRequest,
};

macro_rules! verbs {
    ($(
        #[doc = $help:literal]
        $name:ident: $method:ident $path:literal, $request:ty => $answer:ty, $pace:ident;
    )*) => {
        $(
            #[doc = $help]
            #[derive(Debug)]
            pub enum $name {}

            impl Verb for $name {
                const METHOD: Method = Method::$method;
                const PATH: &'static str = $path;
                const HELP: &'static str = $help.trim_ascii();
                const PACE: Pace = Pace::$pace;
                type Request = $request;
                type Answer = $answer;
            }
        )*

        /// All verbs, in the order of the table.
        pub const ALL: &[Description] = &[$(Description::of::<$name>(stringify!($name))),*];

        /// A VM as the control interface sees it: it serves every verb.
        ///
        /// [`Pace::Slow`] verbs are asked for on a thread of their own, one at a time, so are [`Pace::Ending`] ones, and the others
        /// on the control thread meanwhile, also one at a time: what tells how the machine is, and what stops it, does not wait
        /// for slow ones. The guest waits for none. A fault leaves the machine in the state before the call.
        pub trait Face: Send + Sync + 'static $(+ Service<$name>)* {}

        impl<F> Face for F where F: Send + Sync + 'static $(+ Service<$name>)* {}

        /// The routes to the services of a face, in the order of the table.
        pub(crate) fn routes<F: Face>() -> [Route<F>; ALL.len()] {
            [$(Route::of::<$name>()),*]
        }
    };
}

verbs! {
    /// What the VM is, under Firecracker's path
    GetRoot: Get "/", () => Info, Prompt;
    /// Version of the VMM
    GetVersion: Get "/version", () => Version, Prompt;
    /// What the VM is
    GetVm: Get "/vm", () => Info, Prompt;
    /// Pause or resume the guest; answered when that is committed. Pausing a paused VM is fine, and so is resuming one that runs
    PatchVm: Patch "/vm", VmState => (), Slow;
    /// How the VM is protected
    GetFt: Get "/ft", () => Status, Prompt;
    /// Protect the running VM. Answered when the change is under way; `GET /ft` tells when it is done
    PutFt: Put "/ft", ProtectRequest => Option<Protection>, Prompt;
    /// Stop replicating; the guest keeps running without protection
    DeleteFt: Delete "/ft", () => (), Prompt;
    /// Have a backup run the copy that it kept, against the witness; names every place listed there as dead
    PutTakeOver: Put "/ft/take-over", TakeOverRequest => (), Slow;
    /// Hand the guest over to its backup; answered when it runs there, or why it does not. This program ends then
    PutSwitchover: Put "/ft/switchover", SwitchoverRequest => Switchover, Slow;
    /// Continue the VM's register at another witness; answered when that one counts
    PutWitness: Put "/ft/witness", WitnessRequest => (), Slow;
    /// Write a snapshot into a new directory
    PutSnapshot: Put "/snapshot/create", SnapshotRequest => Snapshot, Slow;
    /// End the VM cleanly; answered when all output has left and the end stands at the witness. A backup answers when it is told
    PutAction: Put "/actions", Action => (), Ending;
    /// Metrics as Prometheus text
    GetMetrics: Get "/metrics", () => PrometheusText, Prompt;
    /// Forget the distributions among the metrics, so that they cover only what follows. Counters keep their values
    DeleteMetrics: Delete "/metrics", () => (), Prompt;
    /// Events, one JSON object per line, oldest first. Old ones may be gone
    GetEvents: Get "/events", Since => Vec<Event>, Prompt;
    /// This document
    GetOpenapi: Get "/openapi.json", () => Value, Prompt;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_verbs_are_sent_alike() {
        let mut sent: Vec<_> = ALL.iter().map(|verb| (verb.path, verb.method)).collect();
        sent.sort();
        sent.dedup();
        assert_eq!(sent.len(), ALL.len());
    }
}
