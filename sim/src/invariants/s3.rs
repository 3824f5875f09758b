use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **S3**: the lease goes to a member only if it is at most `maximum_lag_on_failover` behind the last position that a
/// holder published, unless an operator named it or a former holder had its proof.
///
/// Under asynchronous replication a failover may lose commits; this is the promise of how many at most.
#[derive(Debug)]
pub(crate) struct BoundedLoss;

impl Invariant for BoundedLoss {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Granted { member, .. } = moment else { return Ok(()) };
        let host = &world.hosts[*member];
        let cluster = &world.store.peek().cluster;
        let named = cluster.failover.as_ref().is_some_and(|request| {
            request.candidate.as_ref() == Some(&world.names[*member])
                && (request.handed_over || request.leader.is_none())
        });
        // A directory that was lost while the request was on its way is another matter.
        if named || host.postgres.accepts_writes() || host.postgres.data.is_none() {
            return Ok(());
        }
        let lag = cluster.position.bytes_ahead_of(host.postgres.end());
        let allowed = world.scenario.settings[*member].maximum_lag_on_failover;
        if lag > allowed {
            return Err(format!(
                "{} got the lease, {lag} bytes behind where {allowed} are allowed",
                name(world, *member)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_store::{Op, Txn};

    use super::super::testing::Stage;
    use crate::layout;

    #[test]
    fn fires_when_a_member_too_far_behind_gets_the_lease() {
        let mut stage = Stage::new();
        stage.data(0, 10);
        assert_eq!(stage.grant(0, 3), None);
        let far = u64::MAX / 2;
        stage.world.store.transact(0, Txn::of(vec![Op::put(layout::STATUS, far.to_string())]));
        assert_eq!(stage.grant(0, 5).as_deref(), Some("S3"));
    }
}
