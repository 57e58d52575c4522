//! A subscriber of Redis that remembers every message.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;

pub struct Subscriber {
    messages: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes to one channel; returns when Redis has confirmed.
    pub async fn start(url: &str, channel: &str) -> Subscriber {
        let client = redis::Client::open(url).expect("a Redis URL");
        let mut pubsub = client.get_async_pubsub().await.expect("a connection to Redis");
        pubsub.subscribe(channel).await.expect("a subscription");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&messages);
        let task = tokio::spawn(async move {
            let mut stream = pubsub.into_on_message();
            while let Some(message) = stream.next().await {
                into.lock().expect("the messages").push(message.get_payload().expect("UTF-8"));
            }
        });
        Subscriber { messages, task }
    }

    /// Waits until everything that Redis had got before this call has arrived.
    pub async fn settle(&self, url: &str, channel: &str) {
        const MARK: &str = "{}";
        let client = redis::Client::open(url).expect("a Redis URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("a connection to Redis");
        let _: i64 =
            redis::cmd("PUBLISH").arg(channel).arg(MARK).query_async(&mut connection).await.expect("a published mark");
        oplogue_testkit::wait_for("the mark", || async { self.messages().iter().any(|m| m == MARK) }).await;
        self.messages.lock().expect("the messages").retain(|m| m != MARK);
    }

    pub fn count(&self) -> usize {
        self.messages.lock().expect("the messages").len()
    }

    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("the messages").clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}
