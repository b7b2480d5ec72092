//! The hooks that are not run by what makes the container: after its start, after its end.

use oci_spec::runtime::Hook;
use serde_json::Value;

use crate::runtime::run_hooks;

/// Runs hooks one after the other with the container's state on their standard input. The specification wants failures told,
/// not acted upon: all are run, and what went wrong is returned.
pub(super) fn run(hooks: &[Hook], state: &Value) -> Vec<String> {
    hooks
        .iter()
        .filter_map(|hook| run_hooks(std::slice::from_ref(hook), state).err())
        .map(|error| error.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let hook =
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": timeout});
        serde_json::from_value(hook).expect("hook")
    }

    #[test]
    fn hooks_get_the_state_and_all_are_run() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("state").display().to_string();
        let hooks = [
            hook("exit 3", None),
            hook("exec sleep 1000", Some(1)),
            hook(&format!("cat > {file}; echo $A >> {file}"), Some(60)),
        ];
        let failures = run(&hooks, &json!({"id": "x"}));
        assert_eq!(failures, ["run hook /bin/sh: exit status: 3, ", "run hook /bin/sh: timed out"]);
        assert_eq!(std::fs::read_to_string(file).expect("written"), "{\"id\":\"x\"}b\n");
    }
}
