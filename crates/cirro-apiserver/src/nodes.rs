//! Nodes as users: what they may ask for, and what of it they may write.
//!
//! A node is `system:node:NAME` in the group `system:nodes`. `authorizer` lets it reach what its own pods refer to,
//! which `references` finds; `restriction` looks into what it writes.
//!
//! Source: `pkg/auth/nodeidentifier/default.go`, `plugin/pkg/auth/authorizer/node`, `plugin/pkg/admission/noderestriction`.

use crate::auth::User;

mod authorizer;
mod references;
mod restriction;

/// The group of nodes.
const GROUP: &str = "system:nodes";
/// How names of nodes' users begin.
const PREFIX: &str = "system:node:";

/// Returns the name of the node that a user is; empty when that is not said.
pub(crate) fn identity(user: &User) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|_| user.is_in(GROUP))
}
