use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::{KeyRange, LeaseId};

/// What a key was at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// The revision at which the key began to exist.
    pub create_revision: Revision,
    /// The revision of the put that made it this.
    pub mod_revision: Revision,
    /// Puts since the key began to exist; 1 after the first.
    pub version: u64,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    revision: Revision,
    /// Its place among the changes of that revision.
    place: u32,
    /// What the key is from then on; none: it was deleted.
    entry: Option<Entry>,
}

/// A change, as a watcher is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    /// The revision; all changes of one transaction have the same.
    pub revision: Revision,
    /// Its place among them.
    pub place: u32,
    /// The key.
    pub key: &'a [u8],
    /// What it is now; none: it was deleted.
    pub entry: Option<&'a Entry>,
    /// What it was before that revision, unless that is compacted away.
    pub before: Option<&'a Entry>,
}

/// Why the keys of a revision cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionError {
    /// Its history is gone up to this revision.
    Compacted(Revision),
    /// The store is at this revision, which is below the wanted one.
    Future(Revision),
}

/// Where a change is found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Logged {
    revision: Revision,
    place: u32,
    key: Arc<[u8]>,
}

/// Keys with their history since the last compaction, in the manner of etcd's multi-version store. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Record", into = "Record")]
pub struct Keyspace {
    /// Only grows, by one for each transaction that changed a key. 1 when empty, so that 0 means "never".
    revision: Revision,
    /// What was before this revision is gone. None: everything is there.
    compacted: Option<Revision>,
    /// The changes of each key, oldest first, never none.
    keys: BTreeMap<Arc<[u8]>, Vec<Version>>,
    /// All changes from the compacted revision on, oldest first.
    log: VecDeque<Logged>,
    /// Keys that exist now.
    live: usize,
    /// Bytes of keys and values that exist now.
    live_bytes: usize,
    /// Bytes of values that are remembered only.
    history_bytes: usize,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self {
            revision: Revision(1),
            compacted: None,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            live: 0,
            live_bytes: 0,
            history_bytes: 0,
        }
    }
}

impl Keyspace {
    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What was before this revision is gone. 0: everything is there.
    pub fn compacted(&self) -> Revision {
        self.compacted.unwrap_or(Revision(0))
    }

    /// The same; none: it was never compacted. That it was, at revision 0, makes a difference to etcd, though nothing is gone then.
    pub fn was_compacted(&self) -> Option<Revision> {
        self.compacted
    }

    /// Changes whose history is kept.
    pub fn changes(&self) -> usize {
        self.log.len()
    }

    /// Keys that exist.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Bytes of the keys and values that exist.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes of the values that are remembered and not there any more.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// A key as it is now, with the changes of a transaction that is under way.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(key)?.last()?.entry.as_ref()
    }

    /// The keys of a range as they are now, in order.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = (&'a [u8], &'a Entry)> {
        self.histories(range).filter_map(|(key, versions)| Some((key, versions.last()?.entry.as_ref()?)))
    }

    /// The keys of a range as they were at a revision, in order.
    ///
    /// # Errors
    /// That revision is gone, or has not come yet.
    pub fn range_at<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> Result<impl Iterator<Item = (&'a [u8], &'a Entry)>, RevisionError> {
        if revision > self.revision {
            return Err(RevisionError::Future(self.revision));
        }
        if revision < self.compacted() {
            return Err(RevisionError::Compacted(self.compacted()));
        }
        Ok(self.histories(range).filter_map(move |(key, versions)| Some((key, at(versions, revision)?))))
    }

    /// The changes of a range from a revision on, that one included, in their order.
    ///
    /// # Errors
    /// That revision is gone.
    pub fn changes_from<'a>(&'a self, range: &'a KeyRange, from: Revision) -> Result<Vec<Change<'a>>, RevisionError> {
        if from < self.compacted() {
            return Err(RevisionError::Compacted(self.compacted()));
        }
        let first = self.log.partition_point(|logged| logged.revision < from);
        let wanted = self.log.range(first..).filter(|logged| range.contains(&logged.key));
        Ok(wanted.filter_map(|logged| self.change(logged)).collect())
    }

    fn change<'a>(&'a self, logged: &'a Logged) -> Option<Change<'a>> {
        let versions = self.keys.get(&logged.key)?;
        let place = (logged.revision, logged.place);
        let index = versions.binary_search_by_key(&place, |version| (version.revision, version.place)).ok()?;
        Some(Change {
            revision: logged.revision,
            place: logged.place,
            key: &logged.key,
            entry: versions[index].entry.as_ref(),
            before: at(versions, Revision(logged.revision.0 - 1)),
        })
    }

    /// Begins a transaction. Its changes are seen by it at once; they have one new revision.
    pub fn begin(&mut self) -> Transaction<'_> {
        Transaction { next: Revision(self.revision.0 + 1), place: 0, keyspace: self }
    }

    /// Forgets what was before a revision.
    ///
    /// # Errors
    /// It is forgotten already, or has not come yet.
    pub fn compact(&mut self, revision: Revision) -> Result<(), RevisionError> {
        if Some(revision) <= self.compacted {
            return Err(RevisionError::Compacted(self.compacted()));
        }
        if revision > self.revision {
            return Err(RevisionError::Future(self.revision));
        }
        self.compacted = Some(revision);
        let history_bytes = &mut self.history_bytes;
        self.keys.retain(|_, versions| {
            let newer = versions.partition_point(|version| version.revision <= revision);
            // What the key was at that revision stays; a deletion only if it happened then, for those who watch from there.
            let stays = newer > 0 && (versions[newer - 1].entry.is_some() || versions[newer - 1].revision == revision);
            let gone = if stays { newer - 1 } else { newer };
            // The last one is what the key is now, and was never counted.
            let counted = versions.len() - 1;
            *history_bytes -= versions[..gone.min(counted)].iter().map(Version::bytes).sum::<usize>();
            versions.drain(..gone);
            !versions.is_empty()
        });
        self.log.drain(..self.log.partition_point(|logged| logged.revision < revision));
        Ok(())
    }

    /// Forgets the older half of what is remembered.
    pub fn forget_half(&mut self) {
        let middle = self.log.get(self.log.len() / 2).map(|logged| logged.revision);
        if let Some(revision) = middle.filter(|revision| Some(*revision) > self.compacted) {
            assert!(self.compact(revision).is_ok(), "a revision that there was, and that is not forgotten");
        }
    }

    fn histories<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = (&'a [u8], &'a [Version])> {
        let bounds = (Bound::Included(range.start()), Bound::Unbounded);
        let from = self.keys.range::<[u8], _>(bounds).take_while(|(key, _)| range.contains(key));
        from.map(|(key, versions)| (&**key, versions.as_slice()))
    }
}

impl Version {
    fn bytes(&self) -> usize {
        self.entry.as_ref().map_or(0, |entry| entry.value.len())
    }
}

/// What a key was at a revision.
fn at(versions: &[Version], revision: Revision) -> Option<&Entry> {
    let later = versions.partition_point(|version| version.revision <= revision);
    versions[..later].last()?.entry.as_ref()
}

/// Changes that get one revision. Dropping it ends it.
#[derive(Debug)]
pub struct Transaction<'a> {
    keyspace: &'a mut Keyspace,
    next: Revision,
    place: u32,
}

impl Transaction<'_> {
    /// The keys, with the changes made so far.
    pub fn keyspace(&self) -> &Keyspace {
        self.keyspace
    }

    /// The revision that the changes get.
    pub fn next(&self) -> Revision {
        self.next
    }

    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        self.place > 0
    }

    /// Creates or changes a key.
    pub fn put(&mut self, key: &[u8], value: Vec<u8>, lease: Option<LeaseId>) {
        let before = self.keyspace.get(key);
        let (create_revision, version) =
            before.map_or((self.next, 1), |entry| (entry.create_revision, entry.version + 1));
        let entry = Entry { value, create_revision, mod_revision: self.next, version, lease };
        self.change(key, Some(entry));
    }

    /// Deletes a key; whether it existed.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let existed = self.keyspace.get(key).is_some();
        if existed {
            self.change(key, None);
        }
        existed
    }

    fn change(&mut self, key: &[u8], entry: Option<Entry>) {
        let keyspace = &mut *self.keyspace;
        if let Some(before) = keyspace.get(key).map(|entry| entry.value.len()) {
            keyspace.live_bytes -= key.len() + before;
            keyspace.history_bytes += before;
            keyspace.live -= 1;
        }
        if let Some(entry) = &entry {
            keyspace.live_bytes += key.len() + entry.value.len();
            keyspace.live += 1;
        }
        let version = Version { revision: self.next, place: self.place, entry };
        let key: Arc<[u8]> = key.into();
        keyspace.log.push_back(Logged { revision: self.next, place: self.place, key: Arc::clone(&key) });
        keyspace.keys.entry(key).or_default().push(version);
        keyspace.revision = self.next;
        self.place += 1;
    }
}

/// A keyspace in a snapshot: what follows from the changes of the keys is left out.
#[derive(Serialize, Deserialize)]
struct Record {
    revision: Revision,
    compacted: Option<Revision>,
    keys: Vec<(Vec<u8>, Vec<Version>)>,
}

impl Keyspace {
    /// These keys at this revision; what was before is gone.
    pub(crate) fn without_history(revision: Revision, keys: impl Iterator<Item = (Vec<u8>, Entry)>) -> Self {
        let only = |(place, (key, entry)): (u32, (Vec<u8>, Entry))| {
            (key, vec![Version { revision: entry.mod_revision, place, entry: Some(entry) }])
        };
        Record { revision, compacted: Some(revision), keys: (0..).zip(keys).map(only).collect() }.into()
    }
}

impl From<Keyspace> for Record {
    fn from(keyspace: Keyspace) -> Self {
        let keys = keyspace.keys.into_iter().map(|(key, versions)| (key.to_vec(), versions)).collect();
        Self { revision: keyspace.revision, compacted: keyspace.compacted, keys }
    }
}

impl From<Record> for Keyspace {
    fn from(record: Record) -> Self {
        let (mut log, mut live, mut live_bytes, mut history_bytes) = (Vec::new(), 0, 0, 0);
        let mut keys = BTreeMap::new();
        for (key, versions) in record.keys {
            let key: Arc<[u8]> = key.into();
            if let Some(entry) = versions.last().and_then(|version| version.entry.as_ref()) {
                live += 1;
                live_bytes += key.len() + entry.value.len();
            }
            history_bytes += versions.iter().rev().skip(1).map(Version::bytes).sum::<usize>();
            log.extend(
                versions.iter().filter(|version| Some(version.revision) >= record.compacted).map(|version| Logged {
                    revision: version.revision,
                    place: version.place,
                    key: Arc::clone(&key),
                }),
            );
            keys.insert(key, versions);
        }
        log.sort_by_key(|logged| (logged.revision, logged.place));
        Self {
            revision: record.revision,
            compacted: record.compacted,
            keys,
            log: log.into(),
            live,
            live_bytes,
            history_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type State = BTreeMap<Vec<u8>, (Vec<u8>, u64, u64, u64)>;

    /// What a keyspace must say, told the long way: every state that there ever was.
    #[derive(Debug, Default)]
    struct Model {
        /// By revision, from 1 on.
        states: Vec<State>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Delete(u8),
        Compact(u8),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Vec<Step>> {
        let one = prop_oneof![
            6 => (0..5_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            3 => (0..5_u8).prop_map(Step::Delete),
        ];
        prop_oneof![
            8 => prop::collection::vec(one, 1..4),
            1 => any::<u8>().prop_map(|back| vec![Step::Compact(back)]),
            1 => Just(vec![Step::Reopen]),
        ]
    }

    fn told<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a Entry)>) -> State {
        let figures =
            |entry: &Entry| (entry.value.clone(), entry.create_revision.0, entry.mod_revision.0, entry.version);
        pairs.map(|(key, entry)| (key.to_vec(), figures(entry))).collect()
    }

    impl Model {
        fn revision(&self) -> u64 {
            self.states.len() as u64
        }

        /// Changes of `keys` in one transaction, each key once.
        fn change(&mut self, steps: &[Step]) {
            let (mut state, next) = (self.states.last().cloned().unwrap_or_default(), self.revision() + 1);
            let before = state.clone();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        let key = vec![*key];
                        let (create, version) = before.get(&key).map_or((next, 1), |found| (found.1, found.3 + 1));
                        state.insert(key, (vec![*value], create, next, version));
                    }
                    Step::Delete(key) => {
                        state.remove(&vec![*key]);
                    }
                    Step::Compact(_) | Step::Reopen => {}
                }
            }
            let deleted = before.keys().any(|key| !state.contains_key(key));
            if deleted || steps.iter().any(|step| matches!(step, Step::Put(..))) {
                self.states.push(state);
            }
        }
    }

    fn once_each(steps: &[Step]) -> Vec<Step> {
        let mut seen = Vec::new();
        let first = |step: &&Step| match step {
            Step::Put(key, _) | Step::Delete(key) => {
                let new = !seen.contains(key);
                seen.push(*key);
                new
            }
            Step::Compact(_) | Step::Reopen => true,
        };
        steps.iter().filter(first).cloned().collect()
    }

    fn run(keyspace: &mut Keyspace, model: &mut Model, steps: &[Step]) {
        match steps {
            [Step::Compact(back)] => {
                let revision = Revision(model.revision().saturating_sub(u64::from(*back) % 8));
                let gone = Some(revision) <= keyspace.was_compacted();
                assert_eq!(keyspace.compact(revision).is_err(), gone);
            }
            [Step::Reopen] => {
                let text = serde_json::to_string(&*keyspace).unwrap();
                let reopened: Keyspace = serde_json::from_str(&text).unwrap();
                assert_eq!(&reopened, keyspace);
            }
            steps => {
                let mut transaction = keyspace.begin();
                for step in steps {
                    match step {
                        Step::Put(key, value) => transaction.put(&[*key], vec![*value], None),
                        Step::Delete(key) => drop(transaction.delete(&[*key])),
                        Step::Compact(_) | Step::Reopen => {}
                    }
                }
                model.change(steps);
            }
        }
    }

    /// Every revision that is kept shows the state that there was, and the changes lead from each to the next.
    fn compare(keyspace: &Keyspace, model: &Model) {
        let all = KeyRange::prefix("");
        assert_eq!(keyspace.revision().0, model.revision());
        assert!(keyspace.range_at(&all, Revision(model.revision() + 1)).is_err());
        let first = keyspace.compacted().0.max(1);
        if first > 1 {
            assert!(keyspace.range_at(&all, Revision(first - 1)).is_err());
            assert!(keyspace.changes_from(&all, Revision(first - 1)).is_err());
        }
        for revision in first..=model.revision() {
            let wanted = &model.states[usize::try_from(revision - 1).unwrap()];
            assert_eq!(&told(keyspace.range_at(&all, Revision(revision)).unwrap()), wanted);
            let some = KeyRange::of([1], [3]);
            let within = wanted.iter().filter(|(key, _)| some.contains(key)).count();
            assert_eq!(keyspace.range_at(&some, Revision(revision)).unwrap().count(), within);
        }
        let mut state = model.states[usize::try_from(first - 1).unwrap()].clone();
        for change in keyspace.changes_from(&all, Revision(first + 1)).unwrap() {
            let before = change.before.map(|entry| entry.value.clone());
            assert_eq!(before, state.get(change.key).map(|found| found.0.clone()), "{change:?}");
            match change.entry {
                Some(entry) => state.extend(told(std::iter::once((change.key, entry)))),
                None => drop(state.remove(change.key)),
            }
        }
        assert_eq!(Some(&state), model.states.last());
        assert_eq!((keyspace.live(), told(keyspace.range(&all))), (state.len(), state));
    }

    proptest! {
        #[test]
        fn every_kept_revision_shows_what_there_was(steps in prop::collection::vec(step(), 0..40)) {
            let mut keyspace = Keyspace::default();
            let mut model = Model { states: vec![State::new()] };
            for steps in steps {
                run(&mut keyspace, &mut model, &once_each(&steps));
                compare(&keyspace, &model);
            }
        }
    }

    #[test]
    fn a_transaction_sees_its_own_changes_and_counts_bytes() {
        let mut keyspace = Keyspace::default();
        let mut transaction = keyspace.begin();
        transaction.put(b"a", b"123".to_vec(), Some(LeaseId(7)));
        assert_eq!(transaction.keyspace().get(b"a").unwrap().lease, Some(LeaseId(7)));
        assert!(transaction.delete(b"a") && !transaction.delete(b"a"));
        assert!(transaction.changed());
        assert_eq!((keyspace.revision(), keyspace.live_bytes(), keyspace.changes()), (Revision(2), 0, 2));
        assert!(!keyspace.begin().changed());
        assert_eq!(keyspace.revision(), Revision(2), "nothing was changed");
    }
}
