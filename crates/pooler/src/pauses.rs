//! Whose pause is whose. No I/O.

use crate::console::Database;

/// Those of these databases whose pause is ours to end, once they are paused: all but those that are paused already, and not by us.
/// `kept` are those that we may have paused before, and have not let go on since.
pub(crate) fn ours(names: &[String], known: &[Database], kept: &[String]) -> Vec<String> {
    let paused = |name: &String| known.iter().any(|database| database.name == *name && database.paused);
    let by_others = |name: &String| paused(name) && !kept.contains(name);
    names.iter().filter(|name| !by_others(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn known(databases: &[(&str, bool)]) -> Vec<Database> {
        databases.iter().map(|(name, paused)| Database { name: (*name).to_owned(), paused: *paused }).collect()
    }

    #[test]
    fn what_somebody_else_has_paused_is_not_ours() {
        let known = known(&[("app_rw", false), ("other_rw", true), ("app_ro", true)]);
        assert_eq!(ours(&names(&["app_rw", "other_rw"]), &known, &[]), ["app_rw"]);
    }

    #[test]
    fn a_pause_of_ours_that_has_not_ended_stays_ours() {
        let known = known(&[("app_rw", true), ("other_rw", true)]);
        assert_eq!(ours(&names(&["app_rw", "other_rw"]), &known, &names(&["app_rw"])), ["app_rw"]);
    }
}
