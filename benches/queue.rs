//! What the queue between callers and engine costs: `cargo bench -p aieng-runtime --bench queue`.
//!
//! The first figure is a push and a pop on one thread, the second what one consumer takes from four producers.

use aieng_runtime::bench::Queue;
use std::time::{Duration, Instant};

const ITEMS: u64 = 4_000_000;

fn main() {
    let queue = Queue::new(1024).expect("memory");
    let mut nanoseconds: Vec<f64> = (0..5).map(|_| alone(&queue)).collect();
    nanoseconds.sort_unstable_by(f64::total_cmp);
    println!("push and pop, one thread: {:.1} ns (best {:.1})", nanoseconds[2], nanoseconds[0]);
    let mut rates: Vec<f64> = (0..5).map(|_| together(&queue)).collect();
    rates.sort_unstable_by(f64::total_cmp);
    println!("four producers, one consumer: {:.2} million items a second (best {:.2})", rates[2], rates[4]);
}

fn alone(queue: &Queue<u64>) -> f64 {
    let begin = Instant::now();
    for item in 0..ITEMS {
        assert!(queue.push(item).is_ok());
        assert_eq!(queue.pop(), Some(item));
    }
    begin.elapsed().as_nanos() as f64 / ITEMS as f64
}

fn together(queue: &Queue<u64>) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for mut item in 0..ITEMS / 4 {
                    while let Err(back) = queue.push(item) {
                        item = back;
                        std::thread::yield_now();
                    }
                }
            });
        }
        for _ in 0..ITEMS {
            assert!(queue.pop_wait(Some(Duration::from_secs(10)), || false).is_some());
        }
    });
    ITEMS as f64 / begin.elapsed().as_secs_f64() / 1e6
}
