use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout};

use super::{Next, Queue, RunnerMetrics};

fn queue() -> Arc<Queue<&'static str>> {
    Arc::new(Queue::new(RunnerMetrics::new(&mut Registry::default()).of("test")))
}

async fn nothing(queue: &Queue<&'static str>, within: Duration) -> bool {
    timeout(within, queue.get()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_never_in_two_hands() {
    let queue = queue();
    queue.add("a");
    queue.add("a");
    assert_eq!(queue.get().await, "a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.get().await, "b");
    assert!(nothing(&queue, Duration::from_secs(1)).await, "`a` is still being worked on");
    queue.done(&"a");
    assert_eq!(queue.get().await, "a");
    queue.done(&"a");
    queue.done(&"b");
    assert!(nothing(&queue, Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_each_time_and_success_resets() {
    let queue = queue();
    let mut waits = Vec::new();
    for _ in 0..16 {
        queue.retry("a");
        let began = Instant::now();
        assert_eq!(queue.get().await, "a");
        waits.push(began.elapsed());
        queue.done(&"a");
    }
    assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
    assert_eq!(waits[0], Duration::from_millis(5));
    assert_eq!(waits[15], Duration::from_secs(60));
    queue.forget(&"a");
    queue.retry("a");
    let began = Instant::now();
    queue.get().await;
    assert!(began.elapsed() <= Duration::from_millis(6));
}

#[tokio::test(start_paused = true)]
async fn many_failing_keys_share_one_retry_budget() {
    let queue = Arc::new(Queue::<u32>::new(RunnerMetrics::new(&mut Registry::default()).of("test")));
    let began = Instant::now();
    for key in 0..200 {
        queue.retry(key);
    }
    for _ in 0..200 {
        queue.get().await;
    }
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_stands_and_a_sleeping_worker_takes_a_new_one() {
    let queue = queue();
    queue.add_after("a", Duration::from_secs(50));
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { queue.get().await }
    });
    tokio::task::yield_now().await;
    let began = Instant::now();
    queue.add_after("a", Duration::from_secs(2));
    queue.add_after("a", Duration::from_secs(70));
    assert_eq!(worker.await.unwrap(), "a");
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    queue.done(&"a");
    assert!(nothing(&queue, Duration::from_secs(200)).await, "a key that ran early does not run again");
}

#[test]
fn the_sooner_deadline_wins() {
    let (a, b) = (Next::After(Duration::from_secs(1)), Next::After(Duration::from_secs(2)));
    assert_eq!(a.sooner(b), a);
    assert_eq!(Next::Done.sooner(b), b);
    assert_eq!(Next::Done.sooner(Next::Done), Next::Done);
}
