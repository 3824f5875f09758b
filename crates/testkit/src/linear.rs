//! Whether what concurrent clients saw can be told as one story: each call took effect at one moment between its beginning and its end.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the memory of Lowe ("Testing for
//! Linearizability", 2017): a set of calls that took effect, with the state that they lead to, is looked at once. A history of one key is
//! short enough for that; histories of several keys are checked key by key, as linearizability allows.

use std::collections::HashSet;
use std::hash::Hash;

/// What the calls are made to.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// What is asked.
    type Operation;
    /// What is answered.
    type Answer;

    /// The state before the first call.
    fn initial(&self) -> Self::State;

    /// The state after the call, if it can have been answered so in this state; without an answer, nobody knows what it was.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;
}

/// One call of one client.
#[derive(Debug, Clone)]
pub struct Call<O, A> {
    /// What was asked.
    pub operation: O,
    /// What was answered; none: no answer came, and it may take effect at any time from its beginning on, or never.
    pub answer: Option<A>,
    /// When it was begun, on a clock that all clients share.
    pub begun: u64,
    /// When the answer came.
    pub ended: u64,
}

/// Whether there is an order of the calls that explains all answers.
pub fn is_linearizable<M: Model>(model: &M, history: &[Call<M::Operation, M::Answer>]) -> bool {
    let mut seen: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut open = vec![(Done::none(history.len()), model.initial())];
    while let Some((done, state)) = open.pop() {
        let left = |index: &usize| !done.holds(*index);
        // Whatever took effect next did so before the first of those that are left was answered.
        let answered = (0..history.len()).filter(left).filter(|index| history[*index].answer.is_some());
        let Some(until) = answered.map(|index| history[index].ended).min() else { return true };
        for index in (0..history.len()).filter(left).filter(|index| history[*index].begun <= until) {
            let call = &history[index];
            let Some(next) = model.step(&state, &call.operation, call.answer.as_ref()) else { continue };
            let done = done.with(index);
            if seen.insert((done.0.clone(), next.clone())) {
                open.push((done, next));
            }
        }
    }
    false
}

/// A set of calls.
#[derive(Debug, Clone)]
struct Done(Vec<u64>);

impl Done {
    fn none(calls: usize) -> Self {
        Self(vec![0; calls.div_ceil(64)])
    }

    fn holds(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn with(&self, index: usize) -> Self {
        let mut more = self.clone();
        more.0[index / 64] |= 1 << (index % 64);
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is written, read and compared.
    struct Register;

    #[derive(Debug, Clone, Copy)]
    enum Operation {
        Write(u32),
        Read,
        Swap(u32, u32),
    }
    use Operation::{Read, Swap, Write};

    impl Model for Register {
        type State = u32;
        type Operation = Operation;
        /// What was read; whether it was swapped.
        type Answer = u32;

        fn initial(&self) -> u32 {
            0
        }

        fn step(&self, state: &u32, operation: &Operation, answer: Option<&u32>) -> Option<u32> {
            let fits = |found: u32| answer.is_none_or(|answer| *answer == found);
            match *operation {
                Write(value) => Some(value),
                Read => fits(*state).then_some(*state),
                Swap(from, to) => {
                    let swapped = *state == from;
                    fits(u32::from(swapped)).then_some(if swapped { to } else { *state })
                }
            }
        }
    }

    fn call(operation: Operation, answer: u32, begun: u64, ended: u64) -> Call<Operation, u32> {
        Call { operation, answer: Some(answer), begun, ended }
    }

    fn unknown(operation: Operation, begun: u64) -> Call<Operation, u32> {
        Call { operation, answer: None, begun, ended: u64::MAX }
    }

    #[test]
    fn what_overlaps_may_have_happened_in_any_order() {
        let history = [call(Write(1), 0, 0, 10), call(Read, 0, 1, 5), call(Read, 1, 6, 8), call(Swap(1, 2), 1, 7, 12)];
        assert!(is_linearizable(&Register, &history));
    }

    #[test]
    fn a_read_of_what_was_overwritten_is_found() {
        assert!(!is_linearizable(&Register, &[call(Write(1), 0, 0, 1), call(Read, 0, 2, 3)]));
    }

    #[test]
    fn a_value_that_comes_and_goes_is_found() {
        let history = [call(Write(1), 0, 0, 9), call(Read, 1, 1, 2), call(Read, 0, 3, 4)];
        assert!(!is_linearizable(&Register, &history));
    }

    #[test]
    fn two_winners_of_one_swap_are_found() {
        let history = [call(Swap(0, 1), 1, 0, 5), call(Swap(0, 2), 1, 1, 4)];
        assert!(!is_linearizable(&Register, &history));
    }

    #[test]
    fn what_got_no_answer_may_take_effect_late_once_or_never() {
        let late = [unknown(Write(1), 0), call(Read, 0, 1, 2), call(Read, 1, 5, 6)];
        assert!(is_linearizable(&Register, &late));
        assert!(is_linearizable(&Register, &[unknown(Write(1), 0), call(Read, 0, 9, 10)]), "never");
        let twice = [unknown(Write(1), 0), call(Read, 1, 1, 2), call(Write(2), 0, 3, 4), call(Read, 1, 5, 6)];
        assert!(!is_linearizable(&Register, &twice));
        assert!(!is_linearizable(&Register, &[unknown(Write(1), 5), call(Read, 1, 1, 2)]), "before it began");
    }

    #[test]
    fn a_long_history_of_many_clients_is_checked() {
        let mut history = Vec::new();
        for round in 0..200_u64 {
            let value = u32::try_from(round).unwrap() + 1;
            history.push(call(Write(value), 0, round * 10, round * 10 + 9));
            for client in 1..6 {
                let seen = if client < 3 { value - 1 } else { value };
                history.push(call(Read, seen, round * 10 + client, round * 10 + client + 1));
            }
        }
        assert!(is_linearizable(&Register, &history));
        history.push(call(Read, 7, 2_000, 2_001));
        assert!(!is_linearizable(&Register, &history));
    }
}
