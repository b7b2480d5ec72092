//! How many replicas each set is to have: a pure function, the rules are upstream's.
//!
//! Source: kubernetes `pkg/controller/deployment/{rolling,recreate,sync}.go`.

use cirro_client::text;
use serde_json::Value;

/// What a deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scale {
    /// Replicas wanted.
    pub(super) desired: i64,
    /// How many more there may be meanwhile.
    pub(super) max_surge: i64,
    /// How many may lack meanwhile.
    pub(super) max_unavailable: i64,
    /// Whether old pods go before new ones come.
    pub(super) recreate: bool,
    /// Whether only scaling happens.
    pub(super) paused: bool,
}

/// A replica set, as far as scaling goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    /// Replicas that it asks for.
    pub(super) replicas: i64,
    /// Replicas that are available.
    pub(super) available: i64,
    /// Whether pods of it are still there, ending ones too.
    pub(super) lingers: bool,
    /// Replicas that the deployment wanted when the set was scaled last.
    pub(super) noted: Option<i64>,
}

impl Scale {
    /// Reads a deployment.
    pub(super) fn of(deployment: &Value) -> Self {
        let desired = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        let recreate = text(deployment, "/spec/strategy/type") == "Recreate";
        let max_surge = if recreate { 0 } else { share(&rolling["maxSurge"], desired, true) };
        let mut max_unavailable =
            if recreate { desired } else { share(&rolling["maxUnavailable"], desired, false) };
        // Neither more nor fewer would mean that nothing can ever move.
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        let paused = deployment["spec"]["paused"] == true;
        Self { desired, max_surge, max_unavailable: max_unavailable.min(desired.max(1)), recreate, paused }
    }

    fn most(&self) -> i64 {
        self.desired + self.max_surge
    }
}

impl Set {
    /// Reads a replica set.
    pub(super) fn of(set: &Value, lingers: bool) -> Self {
        let replicas = super::replicas(set);
        Self {
            replicas,
            // A set that was scaled down a moment ago still tells of pods that are about to go.
            available: set["status"]["availableReplicas"].as_i64().unwrap_or(0).min(replicas),
            lingers,
            noted: text(set, "/metadata/annotations/deployment.kubernetes.io~1desired-replicas").parse().ok(),
        }
    }
}

/// Replicas that a new set begins with.
pub(super) fn first_replicas(scale: &Scale, others: &[Set]) -> i64 {
    if scale.recreate {
        return scale.desired;
    }
    let total: i64 = others.iter().map(|set| set.replicas).sum();
    (scale.most() - total).clamp(0, scale.desired)
}

/// Returns the replicas that each set is to have now. `current` is the set of the present template.
pub(super) fn scale(scale: &Scale, sets: &[Set], current: Option<usize>) -> Vec<i64> {
    let mut targets: Vec<i64> = sets.iter().map(|set| set.replicas).collect();
    let was_scaled =
        sets.iter().any(|set| set.replicas > 0 && set.noted.is_some_and(|noted| noted != scale.desired));
    if scale.paused || was_scaled {
        proportional(scale, sets, current, &mut targets);
        return targets;
    }
    if scale.recreate {
        // The new set may not even exist before the old pods are gone.
        let is_old = |index: &usize| Some(*index) != current;
        let old_gone =
            (0..sets.len()).filter(is_old).all(|index| sets[index].replicas == 0 && !sets[index].lingers);
        for (index, target) in targets.iter_mut().enumerate() {
            if is_old(&index) {
                *target = 0;
            } else if old_gone {
                *target = scale.desired;
            }
        }
        return targets;
    }
    let Some(current) = current else { return targets };
    let total: i64 = sets.iter().map(|set| set.replicas).sum();
    let own = sets[current].replicas;
    if own > scale.desired {
        targets[current] = scale.desired;
    } else if own < scale.desired {
        targets[current] = own + (scale.most() - total).clamp(0, scale.desired - own);
    }
    if targets[current] == own {
        give_up_old(scale, sets, current, total, &mut targets);
    }
    targets
}

/// Takes replicas from old sets: first those that do not serve, then those that can be spared.
fn give_up_old(scale: &Scale, sets: &[Set], current: usize, total: i64, targets: &mut [i64]) {
    let least = scale.desired - scale.max_unavailable;
    let new_unavailable = sets[current].replicas - sets[current].available;
    let mut may_go = total - least - new_unavailable;
    // Statuses come late: what they promise beyond this is not there any more.
    if may_go <= 0 {
        return;
    }
    for (index, set) in sets.iter().enumerate().filter(|(index, _)| *index != current) {
        let idle = (set.replicas - set.available).clamp(0, may_go.max(0));
        targets[index] -= idle;
        may_go -= idle;
    }
    let available: i64 = sets.iter().map(|set| set.available).sum();
    let mut spare = available - least;
    for (index, _) in sets.iter().enumerate().filter(|(index, _)| *index != current) {
        let taken = targets[index].clamp(0, spare.max(0)).min(sets[index].available);
        targets[index] -= taken;
        spare -= taken;
    }
}

/// Spreads a change of the number of replicas over the sets in proportion to their size.
fn proportional(scale: &Scale, sets: &[Set], current: Option<usize>, targets: &mut [i64]) {
    let active: Vec<usize> = (0..sets.len()).filter(|index| sets[*index].replicas > 0).collect();
    if let [only] = active[..] {
        targets[only] = scale.desired;
        return;
    }
    if active.is_empty() {
        if let Some(current) = current {
            targets[current] = scale.desired;
        }
        return;
    }
    // A finished rollout has only its own set to scale.
    if let Some(current) = current
        && sets[current].replicas == scale.desired
        && sets[current].available == scale.desired
    {
        for index in active.into_iter().filter(|index| *index != current) {
            targets[index] = 0;
        }
        return;
    }
    let total: i64 = active.iter().map(|index| sets[*index].replicas).sum();
    let allowed = if scale.desired > 0 { scale.most() } else { 0 };
    let mut rest = allowed - total;
    let mut largest_first = active;
    largest_first.sort_by_key(|index| std::cmp::Reverse(sets[*index].replicas));
    for index in &largest_first {
        let share = sets[*index].replicas * (allowed - total) / total;
        let change = if rest >= 0 { share.clamp(0, rest) } else { share.clamp(rest, 0) };
        targets[*index] = (targets[*index] + change).max(0);
        rest -= change;
    }
    if let Some(largest) = largest_first.first() {
        targets[*largest] = (targets[*largest] + rest).max(0);
    }
}

/// Reads a number or percentage of `whole`.
fn share(value: &Value, whole: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number.max(0);
    }
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    let product = percent.unwrap_or(25).max(0) * whole;
    if round_up { product.div_euclid(100) + i64::from(product % 100 > 0) } else { product / 100 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rolling(desired: i64, max_surge: i64, max_unavailable: i64) -> Scale {
        Scale { desired, max_surge, max_unavailable, recreate: false, paused: false }
    }

    fn set(replicas: i64, available: i64, noted: i64) -> Set {
        Set { replicas, available, lingers: replicas > 0, noted: Some(noted) }
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let deployment = json!({"spec": {"replicas": 3, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}});
        let scale = Scale::of(&deployment);
        assert_eq!((scale.max_surge, scale.max_unavailable), (1, 0));
        let none = json!({"spec": {"replicas": 1, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}});
        assert_eq!(Scale::of(&none).max_unavailable, 1);
    }

    #[test]
    fn a_rollout_goes_up_by_the_surge_and_then_gives_up_old_ones() {
        let scale = rolling(3, 1, 0);
        assert_eq!(first_replicas(&scale, &[set(3, 3, 3)]), 1);
        assert_eq!(super::scale(&scale, &[set(3, 3, 3), set(1, 0, 3)], Some(1)), [3, 1]);
        assert_eq!(super::scale(&scale, &[set(3, 3, 3), set(1, 1, 3)], Some(1)), [2, 1]);
        assert_eq!(super::scale(&scale, &[set(2, 2, 3), set(1, 1, 3)], Some(1)), [2, 2]);
        assert_eq!(super::scale(&scale, &[set(1, 1, 3), set(3, 3, 3)], Some(1)), [0, 3]);
    }

    #[test]
    fn replicas_that_do_not_serve_are_given_up_first() {
        let scale = rolling(3, 1, 1);
        assert_eq!(super::scale(&scale, &[set(3, 1, 3), set(1, 1, 3)], Some(1)), [1, 1]);
    }

    #[test]
    fn late_statuses_do_not_take_too_many() {
        // The old set was scaled from 4 to 3 and its status still says 4.
        let late = Set { available: 4, ..set(3, 4, 4) };
        assert_eq!(super::scale(&rolling(4, 1, 0), &[late, set(2, 1, 4)], Some(1)), [3, 2]);
        let value = json!({"spec": {"replicas": 3}, "status": {"availableReplicas": 4}});
        assert_eq!(Set::of(&value, true).available, 3);
    }

    #[test]
    fn recreate_waits_for_the_old_ones() {
        let scale = Scale { recreate: true, ..rolling(2, 0, 2) };
        assert_eq!(super::scale(&scale, &[set(2, 2, 2)], None), [0]);
        let ending = Set { lingers: true, ..set(0, 0, 2) };
        assert_eq!(super::scale(&scale, &[ending, set(0, 0, 2)], Some(1)), [0, 0]);
        assert_eq!(super::scale(&scale, &[set(2, 2, 2), set(0, 0, 2)], Some(1)), [0, 0]);
        assert_eq!(super::scale(&scale, &[set(0, 0, 2), set(0, 0, 2)], Some(1)), [0, 2]);
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_keeps_the_proportion() {
        assert_eq!(super::scale(&rolling(10, 0, 2), &[set(4, 4, 5), set(1, 1, 5)], Some(1)), [8, 2]);
        assert_eq!(super::scale(&rolling(0, 1, 0), &[set(2, 2, 3), set(1, 1, 3)], Some(1)), [0, 0]);
        assert_eq!(super::scale(&rolling(5, 1, 0), &[set(0, 0, 3), set(3, 3, 3)], Some(1)), [0, 5]);
    }

    proptest! {
        /// Whatever the pods do, steps stay within the limits and a rollout whose pods come up ends.
        #[test]
        fn a_rollout_stays_within_its_limits_and_ends(desired in 1_i64..12, surge in 0_i64..4, lack in 0_i64..4) {
            let lack = if surge == 0 && lack == 0 { 1 } else { lack.min(desired) };
            let scale = rolling(desired, surge, lack);
            let mut sets = [set(desired, desired, desired), set(0, 0, desired)];
            sets[1].replicas = first_replicas(&scale, &sets[..1]);
            for _ in 0..100 {
                let targets = super::scale(&scale, &sets, Some(1));
                prop_assert!(targets.iter().all(|target| *target >= 0));
                prop_assert!(targets.iter().sum::<i64>() <= desired + surge);
                for (set, target) in sets.iter_mut().zip(&targets) {
                    set.replicas = *target;
                    set.available = set.available.min(*target);
                }
                prop_assert!(sets[0].available + sets[1].available >= desired - lack);
                sets[1].available = sets[1].replicas;
            }
            prop_assert_eq!((sets[0].replicas, sets[1].replicas), (0, desired));
        }
    }
}
