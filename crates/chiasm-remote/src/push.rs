//! Makes a database equal to an index in a folder.
//!
//! What is there is compared by marks (16 bytes of id and 8 of digest a record), so that whatever has arrived before,
//! in a push that was stopped or in an earlier one, is not sent again. Then come the records that are new or changed,
//! in batches of which each arrives whole or not at all; then those go that the index does not have. At the end all
//! marks are read back and compared.

use std::collections::HashMap;

use chiasm_index::{GRAPH_FROM, GraphChoice, Index};

use crate::about::{About, FORMAT, METRIC};
use crate::error::RemoteError;
use crate::row::{Id, Row};

/// Most records of a batch.
const ROWS: usize = 1000;
/// Most bytes of a batch: with numbers as text this stays below what Qdrant takes in a request, 32 MB.
const BYTES: usize = 6 << 20;

/// How an index is pushed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushOptions {
    /// Whether the database gets an index for approximate search.
    pub graph: GraphChoice,
    /// Throws away what another model made there.
    pub replace: bool,
}

/// What a push is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asks what is there.
    Compare,
    /// Records that are looked at, sent or not, of all.
    Send(usize, usize),
    /// Removes what the index does not have.
    Remove,
    /// Builds the index for approximate search.
    Graph,
    /// Reads back what has arrived.
    Verify,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Records that are there now, counted by the database.
    pub items: usize,
    /// Of these, sent now.
    pub sent: usize,
    /// Of these, there before.
    pub unchanged: usize,
    /// Records that are gone.
    pub removed: usize,
    /// Whether there is an index for approximate search.
    pub graph: bool,
    /// Why there is none although it was wanted.
    pub note: Option<String>,
}

/// What a push needs of a database. Every call is done when it returns.
pub(crate) trait Target {
    /// How it is called, for people.
    fn place(&self) -> String;

    /// Makes room for vectors of this model, or finds that there is some; keeps other pushes away. From here on what
    /// is there counts as not complete. Says whether there is an index for approximate search.
    fn prepare(&mut self, about: &About, replace: bool) -> Result<bool, RemoteError>;

    /// Id and mark of everything that is there.
    fn marks(&mut self) -> Result<HashMap<Id, i64>, RemoteError>;

    /// Puts records there; those in `known` take the place of what has their id.
    fn send(&mut self, rows: &[Row], known: &HashMap<Id, i64>) -> Result<(), RemoteError>;

    /// Removes records.
    fn remove(&mut self, ids: &[Id]) -> Result<(), RemoteError>;

    /// Builds or removes the index for approximate search; whether there is one then, and why not.
    fn graph(&mut self, about: &About, wanted: bool)
    -> Result<(bool, Option<String>), RemoteError>;

    /// Notes what is there and that it is complete.
    fn finish(&mut self, about: &About) -> Result<(), RemoteError>;
}

pub(crate) fn push(
    index: &Index,
    target: &mut dyn Target,
    options: PushOptions,
    on: &mut dyn FnMut(Step),
) -> Result<Pushed, RemoteError> {
    let folder = index.folder();
    let mut about = About {
        format: FORMAT,
        identity: index.identity().clone(),
        metric: METRIC.to_owned(),
        folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
        items: index.len(),
        complete: false,
        graph: false,
    };
    on(Step::Compare);
    let had_graph = target.prepare(&about, options.replace)?;
    let known = target.marks()?;
    let (mut gone, mut wanted) = (known.clone(), HashMap::with_capacity(index.len()));
    let (mut sent, mut bytes) = (0, 0);
    let mut batch: Vec<Row> = Vec::new();
    for (done, row) in index.live_rows().enumerate() {
        let row = Row::read(index, row)?;
        wanted.insert(row.id, row.mark);
        if gone.remove(&row.id) == Some(row.mark) {
            continue;
        }
        if batch.len() == ROWS || bytes + row.bytes() > BYTES {
            target.send(&batch, &known)?;
            sent += batch.len();
            on(Step::Send(done, about.items));
            batch.clear();
            bytes = 0;
        }
        bytes += row.bytes();
        batch.push(row);
    }
    if !batch.is_empty() {
        target.send(&batch, &known)?;
        sent += batch.len();
    }
    on(Step::Remove);
    let gone: Vec<Id> = gone.into_keys().collect();
    for ids in gone.chunks(ROWS) {
        target.remove(ids)?;
    }
    // As the folder: one that is there is kept unless that is not wanted.
    let build = match options.graph {
        GraphChoice::Auto => about.items >= GRAPH_FROM && !had_graph,
        GraphChoice::Build => !had_graph,
        GraphChoice::Keep | GraphChoice::None => false,
    };
    let (graph, note) = if build {
        on(Step::Graph);
        target.graph(&about, true)?
    } else if had_graph && options.graph == GraphChoice::None {
        target.graph(&about, false)?
    } else {
        (had_graph, None)
    };
    on(Step::Verify);
    let there = target.marks()?;
    if there != wanted {
        let right = |(id, mark): &(&Id, &i64)| wanted.get(*id) == Some(*mark);
        return Err(RemoteError::Differs {
            place: target.place(),
            found: there.iter().filter(right).count(),
            wanted: wanted.len(),
        });
    }
    about.complete = true;
    about.graph = graph;
    target.finish(&about)?;
    Ok(Pushed {
        items: there.len(),
        sent,
        unchanged: there.len() - sent,
        removed: gone.len(),
        graph,
        note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiasm_index::{Identity, Kind, Record, Writer};

    /// A database that loses its connection when told to.
    #[derive(Default)]
    struct Memory {
        rows: HashMap<Id, i64>,
        about: Option<About>,
        /// Batches that still arrive.
        left: Option<usize>,
        /// Batches that arrived.
        batches: usize,
        /// A record that a stranger adds while a push goes on.
        stranger: bool,
    }

    impl Target for Memory {
        fn place(&self) -> String {
            "memory".to_owned()
        }

        fn prepare(&mut self, about: &About, _: bool) -> Result<bool, RemoteError> {
            let before = self.about.replace(about.clone());
            Ok(before.is_some_and(|before| before.graph))
        }

        fn marks(&mut self) -> Result<HashMap<Id, i64>, RemoteError> {
            Ok(self.rows.clone())
        }

        fn send(&mut self, rows: &[Row], known: &HashMap<Id, i64>) -> Result<(), RemoteError> {
            if self.left == Some(0) {
                return Err(RemoteError::Lost {
                    place: self.place(),
                    reason: "cut".to_owned(),
                });
            }
            self.left = self.left.map(|left| left - 1);
            self.batches += 1;
            for row in rows {
                let before = self.rows.insert(row.id, row.mark);
                assert_eq!(before, known.get(&row.id).copied());
            }
            if self.stranger {
                self.rows.insert([7; 16], 7);
            }
            Ok(())
        }

        fn remove(&mut self, ids: &[Id]) -> Result<(), RemoteError> {
            for id in ids {
                assert!(self.rows.remove(id).is_some());
            }
            Ok(())
        }

        fn graph(
            &mut self,
            _: &About,
            wanted: bool,
        ) -> Result<(bool, Option<String>), RemoteError> {
            Ok((wanted, None))
        }

        fn finish(&mut self, about: &About) -> Result<(), RemoteError> {
            self.about = Some(about.clone());
            Ok(())
        }
    }

    fn identity() -> Identity {
        Identity {
            model: "m".to_owned(),
            fingerprint: "f".to_owned(),
            width: 3,
        }
    }

    fn add(writer: &mut Writer, number: usize, text: &str) {
        let record = Record {
            key: number.to_string(),
            kind: Kind::Text,
            text: text.to_owned(),
            source: None,
            digest: text.to_owned(),
            metadata: serde_json::Map::new(),
        };
        writer.upsert(&record, &[1.0, number as f32, 2.0]).unwrap();
    }

    fn pushed(index: &Index, target: &mut Memory) -> Result<Pushed, RemoteError> {
        push(index, target, PushOptions::default(), &mut |_| {})
    }

    #[test]
    fn a_push_goes_on_where_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Index::create(folder.path(), identity()).unwrap();
        for number in 0..3500 {
            add(&mut writer, number, "a");
        }
        let index = writer.finish(GraphChoice::None).unwrap();
        let mut target = Memory {
            left: Some(2),
            ..Memory::default()
        };
        let error = pushed(&index, &mut target).unwrap_err();
        assert!(error.hint().unwrap().contains("goes on"));
        assert_eq!((target.rows.len(), target.batches), (2000, 2));
        assert!(!target.about.as_ref().unwrap().complete);
        target.left = None;
        let done = pushed(&index, &mut target).unwrap();
        assert_eq!(
            (done.items, done.sent, done.unchanged, done.removed),
            (3500, 1500, 2000, 0)
        );
        assert_eq!(target.batches, 4);
        let about = target.about.clone().unwrap();
        assert!(about.complete && about.items == 3500);
        let again = pushed(&index, &mut target).unwrap();
        assert_eq!((again.sent, again.unchanged, target.batches), (0, 3500, 4));
    }

    #[test]
    fn what_the_index_lost_or_changed_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Index::create(folder.path(), identity()).unwrap();
        for number in 0..10 {
            add(&mut writer, number, "a");
        }
        let index = writer.finish(GraphChoice::None).unwrap();
        let mut target = Memory::default();
        pushed(&index, &mut target).unwrap();
        let mut writer = Writer::open(folder.path(), &identity()).unwrap();
        writer.remove("3").unwrap();
        add(&mut writer, 4, "b");
        add(&mut writer, 11, "c");
        let index = writer.finish(GraphChoice::None).unwrap();
        let done = pushed(&index, &mut target).unwrap();
        assert_eq!(
            (done.items, done.sent, done.unchanged, done.removed),
            (10, 2, 8, 1)
        );
        assert!(!target.rows.contains_key(&Record::id_of("3")));
    }

    #[test]
    fn what_is_not_as_it_was_sent_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Index::create(folder.path(), identity()).unwrap();
        add(&mut writer, 1, "a");
        let index = writer.finish(GraphChoice::None).unwrap();
        let mut target = Memory {
            stranger: true,
            ..Memory::default()
        };
        let error = pushed(&index, &mut target).unwrap_err();
        assert!(error.to_string().contains("1 records of 1"), "{error}");
        assert!(!target.about.unwrap().complete);
    }
}
