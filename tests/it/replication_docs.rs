//! What docs/replication.md tells people to type works: the users that it makes are enough, and the file does what it says.

use std::{fs, path::Path, process::Command};

use bson::{Document, doc};
use oplogue_testkit::{
    servers::{Credentials, Mongo, MongoOptions},
    wait_for,
};

use crate::process::Oplogue;

/// The first block of a kind below a heading of the page.
pub fn block(heading: &str, kind: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/replication.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(heading).expect("the heading is there");
    let (_, block) = section.split_once(&format!("```{kind}\n")).expect("the block is there");
    block.split_once("```").unwrap().0.to_owned()
}

/// A deployment that demands authentication, and the user of the page, with one more role where that is needed.
async fn end(more: Option<Document>) -> (Mongo, String) {
    let root = Credentials::new("root", "root");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..MongoOptions::default() }).await;
    let script = block("## Factory to cloud", "js");
    let (_, user) = script.split_once("createUser(").unwrap();
    let user: Document = serde_json::from_str(user.trim().strip_suffix(')').unwrap()).unwrap();
    let (name, password) = (user.get_str("user").unwrap(), user.get_str("pwd").unwrap());
    let mut roles = user.get_array("roles").unwrap().clone();
    roles.extend(more.map(bson::Bson::Document));
    mongo.admin(doc! {"createUser": name, "pwd": password, "roles": roles}).await;
    let uri = mongo.uri_of(Some(&Credentials::new(name, password)));
    (mongo, uri)
}

fn tool(oplogue: &Oplogue, arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_oplogue")).args(arguments).arg(oplogue.config()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {text}");
    text
}

async fn walk_through(source: &str, more: Option<Document>) {
    let ((factory, at_factory), (cloud, at_cloud)) = tokio::join!(end(more.clone()), end(more));
    let config = block("## Factory to cloud", "toml");
    let (config, _) = config.split_once("[http]").unwrap();
    let config = config
        .replace("${FACTORY_MONGO_URL}", &at_factory)
        .replace("${CLOUD_MONGO_URL}", &at_cloud)
        .replace("\"mongo-oplog\"", &format!("{source:?}"));
    let items =
        [&factory.client().await, &cloud.client().await].map(|c| c.database("app").collection::<Document>("items"));
    let [here, there] = &items;
    here.insert_one(doc! {"_id": "old"}).await.unwrap();

    let mut oplogue = Oplogue::new(&config);
    tool(&oplogue, &["check", "--connect"]);
    oplogue.start();
    let has = async |end: &mongodb::Collection<Document>, what: Document| end.find_one(what).await.unwrap().is_some();
    wait_for("the copy", async || has(there, doc! {"_id": "old"}).await).await;
    here.insert_one(doc! {"_id": 1, "a": {"b": 1}}).await.unwrap();
    here.create_index(mongodb::IndexModel::builder().keys(doc! {"a.b": 1}).build()).await.unwrap();
    wait_for("a document of the factory", async || has(there, doc! {"_id": 1}).await).await;
    there.update_one(doc! {"_id": 1}, doc! {"$set": {"a.c": 2}}).await.unwrap();
    wait_for("a change of the cloud", async || has(here, doc! {"_id": 1, "a.c": 2}).await).await;
    wait_for("the index", async || there.list_index_names().await.unwrap().len() == 2).await;
    there.delete_one(doc! {"_id": "old"}).await.unwrap();
    wait_for("a delete of the cloud", async || !has(here, doc! {"_id": "old"}).await).await;
    tool(&oplogue, &["verify"]);
    tool(&oplogue, &["conflicts", "list"]);
    assert!(oplogue.terminate().success(), "{}", oplogue.log());
}

#[tokio::test]
async fn factory_to_cloud_with_its_users() {
    walk_through("mongo-oplog", None).await;
}

#[tokio::test]
async fn factory_to_cloud_with_change_streams() {
    walk_through("mongo-change-stream", Some(doc! {"role": "readAnyDatabase", "db": "admin"})).await;
}
