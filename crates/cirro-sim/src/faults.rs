//! Calls that fail on demand or by chance, and the count of all.

use std::collections::{HashMap, VecDeque};

use cirro_seams::node::NodeError;

use crate::random::Random;

/// An operation of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `ensure_sandbox`.
    EnsureSandbox,
    /// `remove_sandbox`.
    RemoveSandbox,
    /// `list_sandboxes`.
    ListSandboxes,
    /// `run_container`.
    RunContainer,
    /// `list_pod_containers`.
    ListContainers,
    /// `stop_container`.
    StopContainer,
    /// `update_container`.
    UpdateContainer,
    /// `remove_container`.
    RemoveContainer,
    /// `usage`.
    Usage,
    /// `find_image`.
    FindImage,
    /// `pull_image`.
    PullImage,
    /// `logs`.
    Logs,
    /// `exec`.
    Exec,
    /// `attach`.
    Attach,
    /// `set_services`.
    SetServices,
    /// `set_names`.
    SetNames,
    /// `set_tenant_networks`.
    SetNetworks,
    /// `ensure_instance`.
    EnsureInstance,
    /// `stop_instance`.
    StopInstance,
    /// `remove_instance`.
    RemoveInstance,
    /// `list_instances`.
    ListInstances,
    /// `instance_console`.
    Console,
}

/// What fails, and how often what was called.
#[derive(Default)]
pub(crate) struct Faults {
    /// One call in so many fails; 0: none.
    pub(crate) chance: u64,
    planned: HashMap<Operation, VecDeque<NodeError>>,
    calls: HashMap<Operation, u64>,
}

impl Faults {
    pub(crate) fn fail_next(&mut self, operation: Operation, times: u32, error: NodeError) {
        let planned = self.planned.entry(operation).or_default();
        planned.extend((0..times).map(|_| error.clone()));
    }

    pub(crate) fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or(0)
    }

    /// Counts a call; returns its error if it is to fail.
    pub(crate) fn call(&mut self, operation: Operation, random: &mut Random) -> Result<(), NodeError> {
        *self.calls.entry(operation).or_insert(0) += 1;
        if let Some(error) = self.planned.get_mut(&operation).and_then(VecDeque::pop_front) {
            return Err(error);
        }
        if self.chance > 0 && random.below(self.chance) == 0 {
            return Err(NodeError::Failed(format!("{operation:?}: failed by chance")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_faults_come_so_often_and_no_more() {
        let (mut faults, mut random) = (Faults::default(), Random::new(1));
        faults.fail_next(Operation::FindImage, 2, NodeError::Failed("disk".into()));
        let mut outcomes = |operation| faults.call(operation, &mut random).is_ok();
        assert!(outcomes(Operation::Exec));
        let found = [(); 3].map(|()| outcomes(Operation::FindImage));
        assert_eq!(found, [false, false, true]);
        assert_eq!(faults.calls(Operation::FindImage), 3);
    }
}
