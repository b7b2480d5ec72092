//! Machines from start to removal.

use cirro_seams::node::{InstanceRequest, InstanceState, NodeError, NodeEvent};

use crate::SimEngine;

impl SimEngine {
    /// Makes or finds a machine and starts it.
    pub(crate) async fn start_machine(&self, request: InstanceRequest) -> Result<InstanceState, NodeError> {
        let delay = {
            let state = self.state();
            if let Some(found) = state.machines.get(&request.uid).filter(|machine| machine.running) {
                return Ok(found.clone());
            }
            if state.image_id(&request.image).is_none() {
                return Err(NodeError::NotFound(format!("No such image: {}", request.image)));
            }
            let subnet = (request.namespace.clone(), request.subnet.clone());
            if !state.networks.subnets.contains_key(&subnet) {
                return Err(NodeError::NotFound(format!("no subnet {}/{}", subnet.0, subnet.1)));
            }
            state.machine_start
        };
        tokio::time::sleep(delay).await;
        let machine = {
            let mut state = self.state();
            let kept = state.machines.get(&request.uid).and_then(|machine| machine.address);
            let address = kept.map_or_else(|| state.machine_address(), Ok)?;
            let machine = InstanceState {
                uid: request.uid.clone(),
                running: true,
                address: Some(address),
                message: None,
            };
            state.machines.insert(request.uid.clone(), machine.clone());
            machine
        };
        self.tell(NodeEvent::Instance(request.uid));
        Ok(machine)
    }

    /// Ends a machine's process; returns whether it ran.
    pub(crate) fn end_machine(&self, uid: &str, message: Option<String>) -> bool {
        {
            let mut state = self.state();
            let Some(machine) = state.machines.get_mut(uid).filter(|machine| machine.running) else {
                return false;
            };
            machine.running = false;
            machine.message = message;
        }
        self.tell(NodeEvent::Instance(uid.to_owned()));
        true
    }
}
