//! The second process: changes in MongoDB, a little apart so that one can follow them.

use std::{env, time::Duration};

use bson::{Document, doc};
use mongodb::Client;

use crate::oplogue::Outcome;

/// The collection that is written to. The filter of config.example.toml lets it pass.
pub const COLLECTION: &str = "oplogue_demo";
/// Another, which the filter holds back.
pub const AUDIT: &str = "audit_oplogue_demo";
/// How many changes of `COLLECTION` are made.
pub const CHANGES: usize = 6;

pub async fn run() -> Outcome<()> {
    let url = env::var("MONGO_URL").map_err(|_| "MONGO_URL is not set")?;
    let app = Client::with_uri_str(url).await?.database("app");
    let tasks = app.collection::<Document>(COLLECTION);

    tell("insert  {_id: \"milk\", title: \"Buy milk\", done: false}").await;
    tasks.insert_one(doc! {"_id": "milk", "title": "Buy milk", "done": false}).await?;
    tell("insert  {_id: \"tea\", title: \"Make tea\", steps: [\"boil\", \"steep\"]}").await;
    tasks.insert_one(doc! {"_id": "tea", "title": "Make tea", "steps": ["boil", "steep"]}).await?;
    tell("update  milk: {$set: {done: true}}").await;
    tasks.update_one(doc! {"_id": "milk"}, doc! {"$set": {"done": true}}).await?;
    tell("replace tea: {title: \"Drink tea\"}").await;
    tasks.replace_one(doc! {"_id": "tea"}, doc! {"title": "Drink tea"}).await?;
    tell("insert  into an audit log, which the filter keeps to itself").await;
    app.collection::<Document>(AUDIT).insert_one(doc! {"_id": 1, "note": "held back"}).await?;
    tell("delete  milk").await;
    tasks.delete_one(doc! {"_id": "milk"}).await?;
    tell("delete  tea").await;
    tasks.delete_one(doc! {"_id": "tea"}).await?;
    Ok(())
}

async fn tell(what: &str) {
    tokio::time::sleep(Duration::from_millis(600)).await;
    println!("{what}");
}
