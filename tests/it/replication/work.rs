//! Random work on a few collections: everything that a client can do to documents.

use mongodb::{
    Client, Collection,
    bson::{Binary, Bson, Document, doc, spec::BinarySubtype},
    error::Result,
};
use oplogue_testkit::generate::{Rng, document, ids, value};

/// A client that works at one end.
pub struct Worker {
    client: Client,
    db: String,
    rng: Rng,
    ids: Vec<Bson>,
    n: i64,
    /// Whether values of a unique index are exchanged: where others do so too, there is no answer that suits both.
    pub swaps: bool,
    /// Whether names begin with `$`: servers before 5.0 do not take them.
    pub dollars: bool,
    /// How much was done, and how much was refused.
    pub done: usize,
    pub refused: usize,
}

impl Worker {
    /// `keys`: workers with different ones never meet, those with the same one always do. Creates nothing by itself.
    pub fn new(client: &Client, db: &str, seed: u64, keys: u64) -> Worker {
        let mut all = ids(keys * 2 + 1);
        all.extend(ids(keys * 2 + 2));
        let n = (seed % 1_000_000) as i64 * 1_000_000;
        Worker {
            client: client.clone(),
            db: db.to_owned(),
            rng: Rng::new(seed),
            ids: all,
            n,
            swaps: true,
            dollars: true,
            done: 0,
            refused: 0,
        }
    }

    pub async fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.step().await {
                Ok(()) => self.done += 1,
                Err(_) => self.refused += 1,
            }
        }
    }

    /// A sanity check: refused is what finds a document there, or has no such operator, not the most.
    pub fn finish(self) {
        assert!(self.done > self.refused, "{} done, {} refused", self.done, self.refused);
    }

    fn coll(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.db).collection(name)
    }

    fn any(&mut self) -> (Collection<Document>, Document) {
        let name = ["a", "b", "c"][self.rng.below(3)];
        let id = self.ids[self.rng.below(self.ids.len())].clone();
        (self.coll(name), doc! {"_id": id})
    }

    fn fresh(&mut self, key: &Document) -> Document {
        self.n += 1;
        let mut fresh = key.clone();
        fresh.insert("n", self.n);
        fresh.insert("arr", (0..self.rng.below(6)).map(|_| value(&mut self.rng, 1)).collect::<Vec<_>>());
        for (name, value) in document(&mut self.rng, 3) {
            fresh.insert(name, value);
        }
        fresh
    }

    async fn step(&mut self) -> Result<()> {
        self.n += 1;
        let n = self.n;
        let (coll, key) = self.any();
        match self.rng.below(20) {
            0..=2 => {
                let fresh = self.fresh(&key);
                coll.insert_one(fresh).await?;
            }
            3..=7 => {
                let update = self.operators(n);
                coll.update_one(key, update).await?;
            }
            8 | 9 => {
                let stages = self.stages(n);
                coll.update_one(key, stages).await?;
            }
            10 | 11 => {
                let fresh = self.fresh(&key);
                coll.replace_one(key, fresh).upsert(true).await?;
            }
            12 => {
                coll.delete_one(key).await?;
            }
            13 => {
                coll.delete_one(key.clone()).await?;
                let fresh = self.fresh(&key);
                coll.insert_one(fresh).await?;
            }
            14 => {
                coll.update_one(key, doc! {"$inc": {"count": 1}, "$set": {"deep.of": n}}).upsert(true).await?;
            }
            15 | 16 => self.transaction().await?,
            17 if self.swaps => self.swap().await?,
            18 => {
                // As GridFS does: many large documents, then one.
                let file = n;
                let data = |n: u8| Binary { subtype: BinarySubtype::Generic, bytes: vec![n; 20_000] };
                let chunks: Vec<Document> = (0..3)
                    .map(|n: u8| doc! {"_id": format!("{file} {n}"), "files_id": file, "n": i32::from(n), "data": data(n)})
                    .collect();
                self.coll("fs.chunks").insert_many(chunks).await?;
                self.coll("fs.files").insert_one(doc! {"_id": file, "length": 60_000_i64}).await?;
            }
            _ => {
                // Without a session, so that nothing in the log tells who it was.
                coll.update_many(doc! {"_id": {"$in": &self.ids[..4]}}, doc! {"$inc": {"many": 1}}).await?;
            }
        }
        Ok(())
    }

    fn operators(&mut self, n: i64) -> Document {
        let value = value(&mut self.rng, 2);
        match self.rng.below(9) {
            0 => doc! {"$set": {"n": n, "deep.a.b": value}},
            1 => doc! {"$set": {"arr.1": value, "n": n}},
            2 => doc! {"$push": {"arr": {"$each": [n, value], "$slice": -5}}},
            3 => doc! {"$unset": {"a": "", "deep.of": ""}, "$set": {"name": n}},
            4 => doc! {"$rename": {"a": "b"}},
            5 => doc! {"$set": {"0": n, "deep.0": n, "deep.1.x": n}},
            6 => doc! {"$pop": {"arr": 1}, "$inc": {"count": 1}},
            7 => doc! {"$set": {"arr.3.x": n}},
            _ => doc! {"$set": {"list": [{"x": n, "y": [1, 2, 3]}, {"x": value}], "n": n}},
        }
    }

    fn stages(&mut self, n: i64) -> Vec<Document> {
        let set = |name: Bson| doc! {"$replaceWith": {"$setField": {"field": name, "input": "$$ROOT", "value": n}}};
        match self.rng.below(6) {
            0 => {
                vec![doc! {"$set": {"arr": {"$cond": [{"$isArray": "$arr"}, {"$slice": ["$arr", 1]}, "$arr"]}, "n": n}}]
            }
            1 => vec![set("a.b".into())],
            2 if self.dollars => vec![set(Bson::Document(doc! {"$literal": "$x"}))],
            3 => vec![set("7".into())],
            4 => vec![
                doc! {"$set": {"list": {"$cond": [{"$isArray": "$list"}, {"$map": {"input": {"$slice": ["$list", 1]}, "in": {"$mergeObjects": ["$$this", {"z": n}]}}}, [{"x": 1}, {"x": 2}]]}}},
            ],
            5 if self.dollars => {
                vec![set("a.b".into()), set(Bson::Document(doc! {"$literal": "$x"})), doc! {"$unset": "name"}]
            }
            _ => vec![doc! {"$set": {"n": n}}, doc! {"$unset": "name"}],
        }
    }

    async fn transaction(&mut self) -> Result<()> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        for _ in 0..2 + self.rng.below(5) {
            self.n += 1;
            let n = self.n;
            let (coll, key) = self.any();
            match self.rng.below(3) {
                0 => {
                    let fresh = self.fresh(&key);
                    coll.replace_one(key, fresh).upsert(true).session(&mut session).await?;
                }
                1 => {
                    let update = doc! {"$set": {"txn": n}, "$inc": {"count": 1}};
                    coll.update_one(key, update).session(&mut session).await?;
                }
                _ => {
                    coll.delete_one(key).session(&mut session).await?;
                }
            }
        }
        if self.rng.below(5) == 0 {
            return session.abort_transaction().await;
        }
        session.commit_transaction().await
    }

    /// Two documents change their values of a unique index, one after the other.
    async fn swap(&mut self) -> Result<()> {
        let coll = self.coll("unique");
        let base = self.ids[0].to_string();
        let name = |n: usize| doc! {"_id": format!("{base} {n}")};
        let (one, two) = (self.rng.below(4), 4 + self.rng.below(4));
        for n in [one, two] {
            let fresh = doc! {"$setOnInsert": {"u": format!("{base} {n}")}};
            coll.update_one(name(n), fresh).upsert(true).await?;
        }
        let of = |found: Option<Document>| found.and_then(|d| d.get_str("u").ok().map(str::to_owned));
        let (a, b) = (of(coll.find_one(name(one)).await?), of(coll.find_one(name(two)).await?));
        if let (Some(a), Some(b)) = (a, b) {
            coll.update_one(name(one), doc! {"$set": {"u": format!("{base} between")}}).await?;
            coll.update_one(name(two), doc! {"$set": {"u": a}}).await?;
            coll.update_one(name(one), doc! {"$set": {"u": b}}).await?;
        }
        Ok(())
    }
}

/// The unique index of [`Worker`]'s collection `unique`.
pub async fn unique_index(client: &Client, db: &str) {
    let index = doc! {"createIndexes": "unique", "indexes": [{"key": {"u": 1}, "name": "u", "unique": true}]};
    client.database(db).run_command(index).await.expect("an index");
}
