use std::{collections::HashMap, fmt, sync::Arc};

/// A namespace, `database.collection`; the database alone for events of a database, empty for those of a deployment.
///
/// Interned by the source that makes it: cloning costs a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    full: Arc<str>,
    dot: u32,
}

impl Namespace {
    /// Parses `database.collection`. The collection begins behind the first dot and may hold more of them.
    pub fn new(full: &str) -> Namespace {
        let dot = full.find('.').unwrap_or(full.len());
        Namespace { full: full.into(), dot: dot as u32 }
    }
    /// The namespace of a collection of a database.
    pub fn of(db: &str, coll: &str) -> Namespace {
        if coll.is_empty() { Namespace::new(db) } else { Namespace::new(&format!("{db}.{coll}")) }
    }
    /// The database; empty for an event of the whole deployment.
    pub fn db(&self) -> &str {
        &self.full[..self.dot as usize]
    }
    /// The collection; empty for an event of a database.
    pub fn coll(&self) -> &str {
        self.full.get(self.dot as usize + 1..).unwrap_or("")
    }
    /// `database.collection`.
    pub fn as_str(&self) -> &str {
        &self.full
    }
    /// Whether the server or a replicator keeps its own affairs here: `local`, `config`, `__mmm`, `admin.system.*`, `*.system.*` and
    /// the temporary collections of `$out`, `renameCollection` and `convertToCapped`. Sources skip these unless asked.
    pub fn is_system(&self) -> bool {
        let coll = self.coll();
        matches!(self.db(), "local" | "config" | REPLICATION_DATABASE)
            || coll.starts_with("system.")
            || coll.starts_with("tmp.agg_out.")
            || coll
                .strip_prefix("tmp")
                .and_then(|rest| rest.split_once('.'))
                .is_some_and(|(_, what)| what == "renameCollection" || what.starts_with("convertToCapped."))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({})", self.full)
    }
}

/// Where a replicator keeps its markers, conflicts and tombstones.
pub const REPLICATION_DATABASE: &str = "__mmm";
/// Where the markers are: the first write of each of its transactions goes there.
pub const MARKERS: &str = "__mmm.markers";

/// Interns namespaces, for a source: one allocation per namespace, not per event.
#[derive(Default)]
pub struct NamespaceCache {
    last: Option<Namespace>,
    all: HashMap<Box<str>, Namespace>,
}

/// More namespaces than this are not remembered at once (I6: hostile names must not grow the cache without end).
const MOST_CACHED: usize = 10_000;

impl NamespaceCache {
    /// The interned namespace of `full`.
    pub fn get(&mut self, full: &str) -> Namespace {
        if let Some(last) = &self.last
            && last.as_str() == full
        {
            return last.clone();
        }
        let ns = match self.all.get(full) {
            Some(ns) => ns.clone(),
            None => {
                if self.all.len() >= MOST_CACHED {
                    self.all.clear();
                }
                let ns = Namespace::new(full);
                self.all.insert(full.into(), ns.clone());
                ns
            }
        };
        self.last = Some(ns.clone());
        ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collection_begins_behind_the_first_dot() {
        let ns = Namespace::new("app.fs.chunks");
        assert_eq!((ns.db(), ns.coll()), ("app", "fs.chunks"));
        assert_eq!((Namespace::new("app").db(), Namespace::new("app").coll()), ("app", ""));
        assert_eq!((Namespace::new("").db(), Namespace::new("").coll()), ("", ""));
        assert_eq!(Namespace::of("app", "x"), Namespace::new("app.x"));
    }

    #[test]
    fn system_namespaces_are_known() {
        for ns in ["local.x", "config.y", "admin.system.users", "a.system.views", "a.system.buckets.w"] {
            assert!(Namespace::new(ns).is_system(), "{ns}");
        }
        for ns in ["a.tmpAB12c.renameCollection", "a.tmpx.convertToCapped.logs", "a.tmp.agg_out.1-2"] {
            assert!(Namespace::new(ns).is_system(), "{ns}");
        }
        for ns in ["a.b", "admin.x", "a.systems", "a.tmp", "a.tmpx.y", "a.temperature"] {
            assert!(!Namespace::new(ns).is_system(), "{ns}");
        }
    }

    #[test]
    fn the_cache_interns() {
        let mut cache = NamespaceCache::default();
        let a = cache.get("a.b");
        cache.get("a.c");
        assert!(Arc::ptr_eq(&a.full, &cache.get("a.b").full));
    }
}
