//! No witness: nobody decides. The operator accepts that both sides may run the guest after a cut of the network.

use super::name::Kind;

pub(super) static KIND: Kind = Kind {
    name: "none",
    usage: "none",
    check: |place| if place.is_none() { Ok(()) } else { Err("there is nothing behind none".into()) },
    with_paths: |place, _| place.to_owned(),
    open: |_| Ok(None),
    failed: |_, error| unreachable!("nobody is asked, so nobody fails: {error}"),
};
