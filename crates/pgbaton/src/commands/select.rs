use crate::cli::{ClusterView, Failure, MemberView, Role};

/// Tells the cluster's name from members' names: the first name is the cluster's if it is not a member's.
pub(crate) fn split<'a>(view: &ClusterView, names: &'a [String]) -> Result<&'a [String], Failure> {
    match names.split_first() {
        Some((first, rest)) if view.member(first).is_none() => {
            if *first == view.scope {
                Ok(rest)
            } else {
                Err(Failure::text(format!("{first} is not a member of cluster {}", view.scope)))
            }
        }
        _ => Ok(names),
    }
}

/// The members that are meant: those named, or all, of a role.
pub(crate) fn select<'a>(view: &'a ClusterView, names: &[String], role: Role) -> Result<Vec<&'a MemberView>, Failure> {
    if view.members.is_empty() {
        return Err(Failure::text(format!("{} cluster doesn't have any members", view.scope)));
    }
    for name in names {
        if view.member(name).is_none() {
            return Err(Failure::text(format!("{name} is not a member of cluster {}", view.scope)));
        }
    }
    let wanted = |member: &&MemberView| match role {
        Role::Leader => member.is_leader(),
        Role::Replica => !member.is_leader(),
        Role::Any => true,
    };
    let chosen: Vec<_> =
        view.members.iter().filter(|member| names.is_empty() || names.contains(&member.name)).filter(wanted).collect();
    if chosen.is_empty() {
        let role = match role {
            Role::Leader => "leader",
            Role::Replica => "replica",
            Role::Any => "any",
        };
        return Err(Failure::text(format!("No {role} among provided members")));
    }
    Ok(chosen)
}

/// The names, separated by commas.
pub(crate) fn names_of(members: &[&MemberView]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_cluster_name_may_be_left_out() {
        let view: ClusterView = serde_json::from_value(
            json!({"scope": "demo", "members": [{"name": "a", "role": "leader"}, {"name": "b", "role": "replica"}]}),
        )
        .unwrap();
        let given = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(split(&view, &given(&["demo", "a"])).unwrap(), ["a"]);
        assert_eq!(split(&view, &given(&["a"])).unwrap(), ["a"]);
        assert_eq!(split(&view, &given(&["x"])).unwrap_err().to_string(), "x is not a member of cluster demo");
        assert_eq!(names_of(&select(&view, &[], Role::Replica).unwrap()), "b");
        assert!(select(&view, &given(&["a"]), Role::Replica).is_err());
    }
}
