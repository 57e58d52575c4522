//! What is written while both sources look.

use bson::{Bson, Document, doc};
use mongodb::{Client, Collection, Database, options::WriteConcern};
use oplogue_api::{Event, Op};
use oplogue_testkit::generate::{self, Step, Work};

pub struct Workload {
    client: Client,
    /// The databases of the workload begin with this.
    prefix: String,
    major: u32,
}

/// Names of collections whose events only one of the sources has; the reasons are at the functions that use them.
const APPLIED: &str = "applied";
const VIEW: &str = "view";
const SERIES: &str = "series";
const CAPPED: &str = "to_capped";

impl Workload {
    pub fn new(client: Client, prefix: &str, version: &str) -> Workload {
        let major = version.split('.').next().and_then(|n| n.parse().ok()).expect("a version");
        Workload { client, prefix: prefix.to_owned(), major }
    }

    fn db(&self, name: &str) -> Database {
        self.client.database(&format!("{}_{name}", self.prefix))
    }

    pub fn is_mine(&self, e: &Event) -> bool {
        e.ns.db().starts_with(&self.prefix)
    }

    pub fn is_marker(&self, e: &Event) -> bool {
        e.op == Op::Insert && self.is_mine(e) && e.ns.coll() == "marker"
    }

    /// A user's atomic `applyOps` is an entry, but no change event: the server leaves it out.
    pub fn is_in_the_oplog_only(&self, e: &Event) -> bool {
        e.ns.coll() == APPLIED && !e.op.is_barrier()
    }

    /// A view, and so a time-series collection, is an entry in `system.views`, of which both sources make a `create` or a `drop`; the
    /// change stream from 6.0 on.
    pub fn is_a_view(&self, e: &Event) -> bool {
        matches!(e.ns.coll(), VIEW | SERIES) && e.op.is_barrier()
    }

    pub async fn run(&self) {
        let main = self.db("main");
        self.documents(&main).await;
        self.definitions(&main).await;
        self.copies(&main).await;
        if self.major >= 6 {
            self.internals(&main).await;
        }
        main.drop().await.expect("dropDatabase");
        self.mark().await;
    }

    /// Writes of documents only, which stay.
    pub async fn run_quietly(&self) {
        self.documents(&self.db("main")).await;
        self.mark().await;
    }

    /// Nothing is left that a majority read does not show yet.
    async fn mark(&self) {
        let marker = self.db("end").collection("marker");
        marker.insert_one(doc! {"_id": 1}).write_concern(WriteConcern::majority()).await.expect("marker");
    }

    async fn documents(&self, db: &Database) {
        self.ids(db).await;
        self.updates(db).await;
        self.names(db).await;
        self.replacements(db).await;
        self.single_documents(db).await;
        self.many_documents(db).await;
        self.transactions(db).await;
        self.random(db).await;
    }

    /// Ids of every type, and a document key that looks like an operator.
    async fn ids(&self, db: &Database) {
        let c = db.collection::<Document>("ids");
        for id in generate::ids(1) {
            c.insert_one(doc! {"_id": id.clone(), "n": 1}).await.expect("insert");
            let filter = doc! {"_id": {"$eq": id.clone()}};
            c.update_one(filter.clone(), doc! {"$set": {"n": 2}}).await.expect("update");
            c.replace_one(filter.clone(), doc! {"n": 3}).await.expect("replace");
            c.delete_one(filter).await.expect("delete");
        }
        let mut rng = generate::Rng::new(7);
        for n in 0..30 {
            let mut document = generate::document(&mut rng, 4);
            document.insert("_id", n);
            c.insert_one(document).await.expect("insert");
        }
    }

    /// Nested and array diffs of all kinds.
    async fn updates(&self, db: &Database) {
        let c = db.collection::<Document>("updates");
        c.insert_one(doc! {
            "_id": 1, "x": 1, "s": "a", "gone": 1, "pad": "x".repeat(200),
            "n": {"a": 1, "b": [1, 2, {"c": 3}], "d": {"e": {"f": 1}}},
            "arr": [{"k": 1}, {"k": 2}, {"k": 3}], "nums": (0..20).collect::<Vec<i32>>(), "5": {"6": [1, 2]},
        })
        .await
        .expect("insert");
        for update in [
            doc! {"$set": {"x": 2}},
            doc! {"$inc": {"x": 5}},
            doc! {"$set": {"n.a": 5}},
            doc! {"$set": {"n.b.2.c": 9, "n.d.e.f": 2}},
            doc! {"$set": {"p.q.r": 5}},
            doc! {"$unset": {"p": ""}},
            doc! {"$unset": {"n.d.e.f": "", "gone": ""}},
            doc! {"$push": {"arr": {"k": 4}}},
            doc! {"$set": {"arr.0.k": 9}},
            doc! {"$set": {"arr.6": {"k": "padded"}}},
            doc! {"$pull": {"arr": {"k": 2}}},
            doc! {"$push": {"nums": {"$each": [100, 101], "$slice": -5}}},
            doc! {"$set": {"5.6.1": 7, "5.7": 8}},
            doc! {"$set": {"x": Bson::Null, "s": {"now": "a document"}}, "$unset": {"nums": ""}, "$push": {"n.b": 4}},
            doc! {"$set": {"s": []}},
            doc! {"$rename": {"x": "renamed"}},
            doc! {"$set": {"when": bson::DateTime::from_millis(5), "dec": 1.5, "long": 5i64, "e": {}, "ea": []}},
            // Changes nothing: no event.
            doc! {"$set": {"long": 5i64}},
        ] {
            c.update_one(doc! {"_id": 1}, update).await.expect("update");
        }
        if self.major >= 5 {
            // By pipeline: the arrays are cut.
            c.insert_one(doc! {"_id": 2, "pad": "y".repeat(500), "arr": (0..30).collect::<Vec<i32>>(), "n": {"arr": [1, 2, 3, 4]}})
                .await
                .expect("insert");
            for pipeline in [
                vec![doc! {"$set": {"arr": {"$slice": ["$arr", 10]}}}],
                vec![doc! {"$set": {"n.arr": {"$slice": ["$n.arr", 2]}, "arr": {"$slice": ["$arr", 3]}}}],
                vec![doc! {"$set": {"twice": {"$multiply": [{"$first": "$arr"}, 2]}}}, doc! {"$unset": "n"}],
            ] {
                c.update_one(doc! {"_id": 2}, pipeline).await.expect("update");
            }
        }
    }

    /// Field names that look like something else.
    async fn names(&self, db: &Database) {
        let c = db.collection::<Document>("names");
        c.insert_one(doc! {"_id": 1, "in": {"a.b": 1, "": 2, "0": {"1": 1}}, "ümlaut": 1, "pad": "z".repeat(200)})
            .await
            .expect("insert");
        for set in [
            doc! {"in.0.1": 2},
            doc! {"in.0.2": 3},
            doc! {"ümlaut": 2},
            doc! {"s": 1, "i": 2, "u": 3, "d": 4, "a": true},
        ] {
            c.update_one(doc! {"_id": 1}, doc! {"$set": set}).await.expect("update");
        }
        if self.major >= 5 {
            c.insert_one(doc! {"_id": 2, "a.b": 1, "$x": 1, "a": {"b": 1, "$y": 2}, "pad": "z".repeat(300)})
                .await
                .expect("insert");
            for (field, value) in [("a.b", 5), ("$x", 6), ("a.b", 7), ("new.dotted", 8), ("$new", 9), ("", 10)] {
                let set = doc! {"$setField": {"field": {"$literal": field}, "input": "$$ROOT", "value": value}};
                c.update_one(doc! {"_id": 2}, vec![doc! {"$replaceWith": set}]).await.expect("update");
            }
            let unset = doc! {"$unsetField": {"field": {"$literal": "a.b"}, "input": "$$ROOT"}};
            c.update_one(doc! {"_id": 2}, vec![doc! {"$replaceWith": unset}]).await.expect("update");
            c.update_one(doc! {"_id": 2}, doc! {"$set": {"a.b": 11}}).await.expect("update");
        }
    }

    async fn replacements(&self, db: &Database) {
        let c = db.collection::<Document>("replaced");
        c.insert_one(doc! {"_id": 1, "a": 1}).await.expect("insert");
        c.replace_one(doc! {"_id": 1}, doc! {"b": {"c": [1, 2]}}).await.expect("replace");
        // Nothing changes, and yet there is an entry.
        c.replace_one(doc! {"_id": 1}, doc! {"b": {"c": [1, 2]}}).await.expect("replace");
        c.replace_one(doc! {"_id": 2}, doc! {"upsert": 1}).upsert(true).await.expect("replace");
        c.update_one(doc! {"_id": 3}, doc! {"$set": {"upsert": 2}}).upsert(true).await.expect("upsert");
        c.update_one(doc! {"_id": 1}, vec![doc! {"$replaceWith": {"_id": 1, "small": 1}}]).await.expect("update");
    }

    /// findAndModify in its forms, with retryable writes and without.
    async fn single_documents(&self, db: &Database) {
        let c = db.collection::<Document>("single");
        for id in 0..4 {
            c.insert_one(doc! {"_id": id, "v": 0}).await.expect("insert");
        }
        c.find_one_and_update(doc! {"_id": 0}, doc! {"$set": {"v": 1}}).await.expect("findAndModify");
        c.find_one_and_replace(doc! {"_id": 1}, doc! {"w": 1}).await.expect("findAndModify");
        c.find_one_and_delete(doc! {"_id": 2}).await.expect("findAndModify");
        c.find_one_and_update(doc! {"_id": 9}, doc! {"$set": {"v": 1}}).upsert(true).await.expect("findAndModify");
        // A command of its own carries no transaction number: not retryable.
        for command in [
            doc! {"insert": "single", "documents": [{"_id": 20}, {"_id": 21}]},
            doc! {"update": "single", "updates": [{"q": {"_id": 20}, "u": {"$set": {"a": 1}}}, {"q": {"_id": 21}, "u": {"b": 1}}]},
            doc! {"findAndModify": "single", "query": {"_id": 20}, "update": {"$set": {"a": 2}}, "new": true},
            doc! {"delete": "single", "deletes": [{"q": {"_id": 20}, "limit": 1}]},
        ] {
            db.run_command(command).await.expect("command");
        }
    }

    async fn many_documents(&self, db: &Database) {
        let c = db.collection::<Document>("many");
        c.insert_many((0..40).map(|n| doc! {"_id": n, "g": n % 2, "pad": "p".repeat(50)})).await.expect("insertMany");
        c.update_many(doc! {"g": 0}, doc! {"$inc": {"n": 1}, "$set": {"o.p": "q"}}).await.expect("updateMany");
        c.delete_many(doc! {"g": 1}).await.expect("deleteMany");
    }

    async fn transactions(&self, db: &Database) {
        let c = db.collection::<Document>("txn");
        let other = self.db("other").collection::<Document>("txn");
        c.insert_one(doc! {"_id": 0}).await.expect("insert");
        other.insert_one(doc! {"_id": 0}).await.expect("insert");
        let mut session = self.client.start_session().await.expect("session");
        for round in 0..3 {
            session.start_transaction().await.expect("transaction");
            for n in 1..=5 {
                let id = round * 10 + n;
                c.insert_one(doc! {"_id": id}).session(&mut session).await.expect("insert");
                other
                    .update_one(doc! {"_id": 0}, doc! {"$set": {"n": id}})
                    .session(&mut session)
                    .await
                    .expect("update");
            }
            c.replace_one(doc! {"_id": 0}, doc! {"r": round}).session(&mut session).await.expect("replace");
            c.delete_one(doc! {"_id": round * 10 + 1}).session(&mut session).await.expect("delete");
            if round == 1 {
                // Nothing of it is ever seen.
                session.abort_transaction().await.expect("abort");
            } else {
                // An operation without effect leaves no trace and no gap in the count.
                c.update_one(doc! {"_id": 0}, doc! {"$set": {"r": round}}).session(&mut session).await.expect("update");
                c.update_one(doc! {"_id": 0}, doc! {"$set": {"last": true}})
                    .session(&mut session)
                    .await
                    .expect("update");
                session.commit_transaction().await.expect("commit");
            }
        }
        // A collection that is made inside a transaction.
        session.start_transaction().await.expect("transaction");
        let made = db.collection::<Document>("made_inside");
        made.insert_one(doc! {"_id": 1}).session(&mut session).await.expect("insert");
        made.insert_one(doc! {"_id": 2}).session(&mut session).await.expect("insert");
        session.commit_transaction().await.expect("commit");
        if self.major >= 5 {
            // Larger than an entry may be: a chain of entries. (4.4.2 cannot commit one.)
            session.start_transaction().await.expect("transaction");
            for id in 0..20 {
                made.insert_one(doc! {"_id": 100 + id, "pad": "x".repeat(1 << 20)})
                    .session(&mut session)
                    .await
                    .expect("insert");
            }
            session.commit_transaction().await.expect("commit");
        }
    }

    /// Whatever the generator makes, a third of it in transactions.
    async fn random(&self, db: &Database) {
        let c = db.collection::<Document>("random");
        let mut session = self.client.start_session().await.expect("session");
        for work in generate::Workload::new(3).take(200) {
            let transaction = matches!(work, Work::Txn(_));
            if transaction {
                session.start_transaction().await.expect("transaction");
            }
            for step in work.steps() {
                let filter = doc! {"_id": {"$eq": step.id()}};
                macro_rules! run {
                    ($action:expr) => {
                        if transaction {
                            let _ = $action.session(&mut session).await.expect("a step");
                        } else {
                            let _ = $action.await.expect("a step");
                        }
                    };
                }
                match step {
                    Step::Insert(document) => run!(c.insert_one(document)),
                    Step::Update(_, set) => run!(c.update_one(filter, doc! {"$set": set})),
                    Step::Replace(document) => run!(c.replace_one(filter, document)),
                    Step::Delete(_) => run!(c.delete_one(filter)),
                }
            }
            if transaction {
                session.commit_transaction().await.expect("commit");
            }
        }
    }

    /// Collections and indexes come and go.
    async fn definitions(&self, db: &Database) {
        db.create_collection("made").await.expect("create");
        let made: Collection<Document> = db.collection("made");
        let index =
            |c: &str, name: &str, key: Document| doc! {"createIndexes": c, "indexes": [{"key": key, "name": name}]};
        // Of an empty collection, then of one with documents, which is built in two steps.
        db.run_command(index("made", "a", doc! {"a": 1})).await.expect("createIndexes");
        made.insert_one(doc! {"_id": 1, "a": 1, "t": bson::DateTime::now()}).await.expect("insert");
        db.run_command(index("made", "b", doc! {"b": 1})).await.expect("createIndexes");
        db.run_command(
            doc! {"createIndexes": "made", "indexes": [{"key": {"t": 1}, "name": "t", "expireAfterSeconds": 900}]},
        )
        .await
        .expect("createIndexes");
        // One that fails leaves nothing behind.
        made.insert_one(doc! {"_id": 2, "a": 1}).await.expect("insert");
        let unique = doc! {"createIndexes": "made", "indexes": [{"key": {"a": -1}, "name": "u", "unique": true}]};
        db.run_command(unique).await.expect_err("two documents have the same");
        db.run_command(doc! {"collMod": "made", "index": {"name": "t", "expireAfterSeconds": 1800}})
            .await
            .expect("collMod");
        db.run_command(doc! {"collMod": "made", "validationLevel": "moderate"}).await.expect("collMod");
        db.run_command(doc! {"dropIndexes": "made", "index": "a"}).await.expect("dropIndexes");
        db.run_command(doc! {"dropIndexes": "made", "index": "*"}).await.expect("dropIndexes");
        let full = |name: &str| format!("{}.{name}", db.name());
        let admin = self.client.database("admin");
        admin.run_command(doc! {"renameCollection": full("made"), "to": full("renamed")}).await.expect("rename");
        db.create_collection("target").await.expect("create");
        admin
            .run_command(doc! {"renameCollection": full("renamed"), "to": full("target"), "dropTarget": true})
            .await
            .expect("rename");
        db.collection::<Document>("target").drop().await.expect("drop");
        let capped = doc! {"create": "capped", "capped": true, "size": 4096, "max": 3};
        db.run_command(capped).await.expect("create");
        let capped = db.collection::<Document>("capped");
        for n in 0..6 {
            capped.insert_one(doc! {"_id": n}).await.expect("insert");
        }
    }

    /// Commands that copy collections.
    async fn copies(&self, db: &Database) {
        let from = db.collection::<Document>("many");
        for _ in 0..2 {
            // The second time over what is there.
            let mut cursor =
                from.aggregate([doc! {"$match": {"_id": {"$lt": 6}}}, doc! {"$out": "out"}]).await.expect("$out");
            while cursor.advance().await.expect("$out") {}
        }
        let mut cursor =
            from.aggregate([doc! {"$match": {"_id": {"$lt": 8}}}, doc! {"$merge": "out"}]).await.expect("$merge");
        while cursor.advance().await.expect("$merge") {}
        let admin = self.client.database("admin");
        let (a, b) = (format!("{}.out", db.name()), format!("{}.moved", self.db("other").name()));
        admin.run_command(doc! {"renameCollection": a, "to": b}).await.expect("rename");
        let c = db.collection::<Document>(CAPPED);
        c.insert_many((0..4).map(|n| doc! {"_id": n})).await.expect("insert");
        db.run_command(doc! {"convertToCapped": CAPPED, "size": 8192}).await.expect("convertToCapped");
        c.insert_one(doc! {"_id": 9}).await.expect("insert");
    }

    /// What one of the sources does not show.
    async fn internals(&self, db: &Database) {
        db.run_command(doc! {"create": VIEW, "viewOn": "many", "pipeline": []}).await.expect("view");
        db.run_command(doc! {"create": SERIES, "timeseries": {"timeField": "t"}}).await.expect("time series");
        db.collection(SERIES).insert_one(doc! {"t": bson::DateTime::now(), "v": 1}).await.expect("insert");
        db.create_collection(APPLIED).await.expect("create");
        let ns = format!("{}.{APPLIED}", db.name());
        let operations = (0..3).map(|n| doc! {"op": "i", "ns": &ns, "o": {"_id": n}}).collect::<Vec<_>>();
        self.client.database("admin").run_command(doc! {"applyOps": operations}).await.expect("applyOps");
        db.collection::<Document>(SERIES).drop().await.expect("drop");
        db.collection::<Document>(VIEW).drop().await.expect("drop");
    }
}
