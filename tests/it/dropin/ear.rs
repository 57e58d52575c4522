//! A subscriber as a Meteor process is one.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use oplogue_testkit::wait_for;
use serde_json::Value;

use super::ids;

/// Hears all channels of one database on one Redis, and connects again when Redis was away, as a Meteor process does.
pub struct Ear {
    heard: Arc<Mutex<Vec<(String, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Ear {
    pub async fn open(url: &str, db: &str) -> Ear {
        let client = redis::Client::open(url).expect("a Redis URL");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (list, pattern) = (Arc::clone(&heard), format!("{db}.*"));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                if let Ok(mut subscription) = client.get_async_pubsub().await
                    && subscription.psubscribe(&pattern).await.is_ok()
                {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(());
                    }
                    let mut messages = subscription.into_on_message();
                    while let Some(message) = messages.next().await {
                        let text = String::from_utf8(message.get_payload_bytes().to_vec()).expect("UTF-8");
                        list.lock().expect("the list").push((message.get_channel_name().to_owned(), text));
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        is_ready.await.expect("a subscription");
        Ear { heard, task }
    }

    pub fn clear(&self) {
        self.heard.lock().expect("the list").clear();
    }

    pub fn all(&self) -> Vec<(String, String)> {
        self.heard.lock().expect("the list").clone()
    }

    /// The messages on one channel.
    pub fn on(&self, channel: &str) -> Vec<String> {
        self.all().into_iter().filter(|(c, _)| c == channel).map(|(_, text)| text).collect()
    }

    /// The ids of the messages on one channel.
    pub fn ids(&self, channel: &str) -> Vec<String> {
        ids(&self.on(channel))
    }

    /// Waits until a channel has brought this many messages.
    pub async fn wait_count(&self, channel: &str, n: usize) {
        wait_for(format!("{n} messages on {channel}"), || async { self.on(channel).len() >= n }).await;
    }

    /// Waits for an id on a channel.
    pub async fn wait_id(&self, channel: &str, id: &str) {
        wait_for(format!("{id} on {channel}"), || async { self.ids(channel).iter().any(|i| i == id) }).await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message as the original's suite compares it: `e`, the id, and `f` as a set.
pub fn parts(message: &str) -> (String, String, BTreeSet<String>) {
    let value: Value = serde_json::from_str(message).expect("JSON");
    let fields = value["f"].as_array().expect("f is an array");
    assert_eq!(value.as_object().map(|o| o.len()), Some(3), "{message}");
    let names = fields.iter().map(|f| f.as_str().expect("a name").to_owned()).collect();
    (value["e"].as_str().expect("e").to_owned(), value["d"]["_id"].to_string(), names)
}
