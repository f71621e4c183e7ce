//! The queue on its own, over rings that the test driver made.

use super::*;
use crate::virtio::driver::{Driver, Part, SIZE, desc_table, nobody};
use crate::virtio::mmio::MmioTransport;
use crate::virtio::rng::Rng;
use crate::virtio::turn::{BYTES_MAX, REQUESTS_MAX, Turn};

/// A queue set up by the driver, taken out of its transport.
fn queue(driver: &mut Driver) -> VirtQueue {
    let mut device = MmioTransport::new(Rng::new());
    driver.start(&mut device, 0);
    VirtQueue::restore(device.save().queues[0], 64).expect("a saved queue")
}

/// Another vCPU makes a new chain available for each one that is served, or the ring feeds itself.
#[test]
fn serve_endless_chains_stops_and_says_so() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    driver.add(0, &[Part::In(4)]);
    let mut served = 0;
    let result = queue.serve(&driver.memory, &mut Turn::new(&mut nobody), |queue, chain| {
        served += 1;
        driver.publish(0, chain.head);
        queue.add_used(&driver.memory, chain.head, 0)
    });
    assert_eq!((result, served), (Ok(()), REQUESTS_MAX));
    assert!(queue.take_unfinished());
    assert!(!queue.take_unfinished());
}

#[test]
fn serve_stops_when_others_want_a_turn_and_behind_the_request_that_exceeds_its_bytes() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    let served = |queue: &mut VirtQueue, turn: &mut Turn<'_>| {
        let mut count = 0;
        let result = queue.serve(&driver.memory, turn, |queue, chain| {
            count += 1;
            queue.add_used(&driver.memory, chain.head, 0)
        });
        assert_eq!(result, Ok(()));
        (count, turn.is_over(), queue.take_unfinished())
    };
    for index in 0..4 {
        // Bytes that lie one over the other cost a device as much as others.
        driver.descriptor(desc_table(0), index, 0, 0x4_0000, 0, 0);
        driver.publish(0, index);
    }
    assert_eq!(served(&mut queue, &mut Turn::new(&mut |_| true)), (0, true, true), "a gate that closes");
    assert_eq!(served(&mut queue, &mut Turn::new(&mut |done| done >= 1)), (1, true, true));
    let mut others = nobody;
    let mut turn = Turn::new(&mut others);
    turn.spend(BYTES_MAX - 0x4_0001);
    assert_eq!(served(&mut queue, &mut turn), (2, true, true));
    assert_eq!(served(&mut queue, &mut Turn::new(&mut nobody)), (1, false, false));
}

#[test]
fn undo_pop_gives_the_same_chain_again() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    driver.add(0, &[Part::Out(vec![1, 2]), Part::In(4)]);
    let first = queue.pop(&driver.memory).unwrap().unwrap();
    queue.undo_pops(1);
    assert_eq!(queue.pop(&driver.memory).unwrap().unwrap(), first);
    assert_eq!(queue.pop(&driver.memory), Ok(None));
}

#[test]
fn chain_read_and_write_cross_buffers_and_stop_at_the_end() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    let parts = [Part::Out(vec![1, 2]), Part::Out(vec![]), Part::Out(vec![3, 4, 5]), Part::In(1), Part::In(2)];
    let addrs = driver.add(0, &parts);
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (5, 3));
    let mut data = [0; 3];
    assert!(chain.read(&driver.memory, 1, &mut data));
    assert_eq!(data, [2, 3, 4]);
    assert!(!chain.read(&driver.memory, 3, &mut data));
    assert!(chain.write(&driver.memory, 0, &[7, 8, 9]));
    assert_eq!((driver.read(addrs[3], 1), driver.read(addrs[4], 2)), (vec![7], vec![8, 9]));
    assert!(!chain.write(&driver.memory, 1, &[7, 8, 9]));
}

#[test]
fn pop_empty_chain_of_an_indirect_table_is_refused() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    driver.descriptor(desc_table(0), 0, 0x2_0000, 0, 4, 0);
    driver.publish(0, 0);
    assert_eq!(queue.pop(&driver.memory), Err(QueueError::Chain));
}

/// Another vCPU must not find the first of buffers that belong together without the last: the index moves once, past all.
#[test]
fn add_used_together_moves_the_index_once_and_around_the_end_of_the_ring() {
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    for round in 0..7_u16 {
        let heads: Vec<u16> = (0..3).map(|n| (3 * round + n) % SIZE).collect();
        heads.iter().for_each(|head| {
            driver.descriptor(desc_table(0), *head, 0x1_0000, 8, 2, 0);
            driver.publish(0, *head);
        });
        let popped: Vec<u16> = heads.iter().map(|_| queue.pop(&driver.memory).unwrap().unwrap().head).collect();
        assert_eq!(popped, heads);
        let used: Vec<(u16, u32)> = heads.iter().map(|head| (*head, u32::from(*head) + 100)).collect();
        assert_eq!(queue.add_used_together(&driver.memory, &used), Ok(()));
        let seen: Vec<(u16, u32)> = driver.used(0).into_iter().map(|(head, len)| (head as u16, len)).collect();
        assert_eq!(seen, used);
        assert_eq!(queue.take_interrupt(&driver.memory), Ok(true));
    }
    assert_eq!(queue.add_used_together(&driver.memory, &[]), Ok(()));
    assert_eq!(queue.take_interrupt(&driver.memory), Ok(false));
    assert_eq!(queue.add_used_together(&driver.memory, &[(0, 0), (SIZE, 0)]), Err(QueueError::Head));
}

#[test]
fn driver_that_looks_by_itself_is_not_interrupted_until_it_asks() {
    // Each batch of frames for a guest that polls cost two calls into KVM, and a processor of the guest was woken for nothing.
    let mut driver = Driver::new();
    let mut queue = queue(&mut driver);
    let set_flags = |flags: u16| {
        let at = GuestAddress(crate::virtio::driver::avail_ring(0));
        vm_memory::Bytes::write_slice(&driver.memory, &flags.to_le_bytes(), at).expect("in memory");
    };
    for (flags, interrupts) in [(NO_INTERRUPT, false), (0, true), (NO_INTERRUPT | 6, false), (6, true)] {
        set_flags(flags);
        queue.add_used(&driver.memory, 0, 0).expect("a head");
        assert_eq!(queue.take_interrupt(&driver.memory), Ok(interrupts), "{flags}");
        assert_eq!(queue.take_interrupt(&driver.memory), Ok(false), "nothing was used since");
    }
}
