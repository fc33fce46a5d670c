//! The names that authorization knows by heart.

use std::sync::LazyLock;

use crate::objects::Actor;

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group that everyone is in who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of those who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user that stands for them.
pub const ANONYMOUS: &str = "system:anonymous";

/// Who shows nothing.
pub fn anonymous() -> Actor {
    static NOBODY: LazyLock<Actor> = LazyLock::new(|| Actor::new(ANONYMOUS, [UNAUTHENTICATED]));
    NOBODY.clone()
}
