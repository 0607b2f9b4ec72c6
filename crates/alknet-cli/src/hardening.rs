//! Keeps what this process holds in memory from others.

/// No core dump is written of this process, and no other process of the same
/// user may look into it (`PR_SET_DUMPABLE`, prctl(2)). Programs that it starts
/// are as they would be. Whoever is root may still look.
pub(crate) fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Cannot fail with this value; and if it did, nothing else would.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    #[cfg(not(target_os = "linux"))]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Core);
        limit.current = Some(0);
        // As many as there may be, then.
        let _ = setrlimit(Resource::Core, limit);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::{DumpableBehavior, dumpable_behavior};

    #[test]
    fn nobody_may_look_into_the_process_afterwards() {
        keep_memory_private();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }
}
