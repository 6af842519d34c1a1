use super::bell::Bell;
use super::ring::Ring;
use loom::sync::Arc;
use loom::thread;

/// All interleavings with up to `preemptions` preemptions; three find nearly all bugs that exist (loom's manual).
pub(crate) fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

/// Tries to push two items, and returns those that went in.
fn push_two(ring: &Ring<Box<u32>>, first: u32) -> Vec<u32> {
    (first..first + 2).filter(|item| ring.push(Box::new(*item)).is_ok()).collect()
}

/// Tries to pop so many times.
fn pop(ring: &Ring<Box<u32>>, times: usize) -> Vec<u32> {
    (0..times).filter_map(|_| ring.pop()).map(|item| *item).collect()
}

#[test]
fn two_producers_and_a_consumer_lose_and_repeat_nothing() {
    for capacity in [1, 2] {
        model(5, move || {
            let ring = Arc::new(Ring::new(capacity).unwrap());
            let producers = [10, 20].map(|first| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || push_two(&ring, first))
            });
            let mut items = pop(&ring, 2);
            let pushed = producers.map(|p| p.join().unwrap());
            items.extend(pop(&ring, 3));
            for (first, pushed) in [10, 20].into_iter().zip(pushed) {
                let own: Vec<u32> = items.iter().copied().filter(|i| i / 10 == first / 10).collect();
                assert_eq!(own, pushed, "{items:?}");
            }
        });
    }
}

#[test]
fn two_consumers_share_what_one_producer_brings() {
    for capacity in [1, 2] {
        model(5, move || {
            let ring = Arc::new(Ring::new(capacity).unwrap());
            let other = Arc::clone(&ring);
            let consumer = thread::spawn(move || pop(&other, 2));
            let other = Arc::clone(&ring);
            let producer = thread::spawn(move || push_two(&other, 0));
            let mut items = pop(&ring, 1);
            items.extend(consumer.join().unwrap());
            let pushed = producer.join().unwrap();
            items.extend(pop(&ring, 2));
            items.sort_unstable();
            assert_eq!(items, pushed);
        });
    }
}

#[test]
fn a_full_ring_gives_back_and_drops_what_is_left() {
    // loom reports memory that is leaked or freed twice.
    model(5, || {
        let ring = Arc::new(Ring::new(1).unwrap());
        let other = Arc::clone(&ring);
        let producer = thread::spawn(move || other.push(Box::new(1)).is_ok());
        let mine = ring.push(Box::new(2)).is_ok();
        let theirs = producer.join().unwrap();
        assert!(mine || theirs);
        assert!(ring.push(Box::new(3)).is_err());
    });
}

#[test]
fn a_sleeper_hears_of_every_item() {
    model(5, || {
        let shared = Arc::new((Ring::new(1).unwrap(), Bell::default()));
        let other = Arc::clone(&shared);
        let sleeper = thread::spawn(move || {
            let mut items = Vec::new();
            for count in 1..=2 {
                other.1.wait(None, || {
                    items.extend(other.0.pop());
                    items.len() == count
                });
            }
            items
        });
        for mut item in [1, 2] {
            while let Err(back) = shared.0.push(item) {
                item = back;
                thread::yield_now();
            }
            shared.1.ring();
        }
        assert_eq!(sleeper.join().unwrap(), [1, 2]);
    });
}

/// A consumer that takes up to `most` items while a producer brings two, and then polls.
fn poll_after(most: usize) {
    model(5, move || {
        let shared = Arc::new((Ring::new(2).unwrap(), Bell::default()));
        let descriptor = shared.1.descriptor().unwrap();
        let other = Arc::clone(&shared);
        let producer = thread::spawn(move || {
            for item in [1, 2] {
                other.0.push(item).unwrap();
                other.1.ring();
            }
        });
        let pop = || shared.0.pop().or_else(|| shared.1.nothing_there(|| shared.0.pop()));
        let mut items: Vec<u32> = std::iter::from_fn(pop).take(most).collect();
        producer.join().unwrap();
        // Whatever is left, the descriptor tells of it.
        while items.len() < 2 {
            assert!(descriptor.is_readable(), "{items:?} came, and nobody is told of the rest");
            items.extend(pop());
        }
        assert_eq!((items, pop()), (vec![1, 2], None));
        assert!(!descriptor.is_readable(), "nothing is there");
    });
}

#[test]
fn a_poller_hears_of_every_item() {
    (1..=3).for_each(poll_after);
}
