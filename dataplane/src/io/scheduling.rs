//! How the kernel schedules a thread that moves packets.

use std::io;

/// Has the calling thread, and no other, scheduled as `SCHED_BATCH`: when it is woken it does not
/// interrupt whoever runs on its CPU, most often the very thread that woke it and is about to
/// sleep. A policy that an operator has chosen (real time, `SCHED_IDLE`) stays.
///
/// # Errors
/// What the kernel says, where something forbids it; the thread is scheduled as before then.
pub(crate) fn as_batch() -> io::Result<()> {
    // System calls, because musl's functions of these names only return an error.
    // SAFETY: takes a number, 0 for the calling thread, and touches no memory.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    if policy < 0 {
        return Err(io::Error::last_os_error());
    }
    if policy != libc::c_long::from(libc::SCHED_OTHER) {
        return Ok(());
    }
    // `struct sched_param` of the system call: the real-time priority, none here. The nice value
    // stays.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one `int` behind the pointer, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_BATCH,
            &raw const priority,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// The calling thread's policy, as the kernel shows it (proc_pid_stat(5), field 41).
    fn policy() -> libc::c_int {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The name, in parentheses, may hold spaces.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields
            .split_whitespace()
            .nth(41 - 3)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn a_thread_becomes_batch_and_its_siblings_do_not() {
        let before = policy();
        let inside = thread::spawn(|| as_batch().map(|()| policy()));
        let after = inside.join().unwrap().unwrap();
        if before == libc::SCHED_OTHER {
            assert_eq!(after, libc::SCHED_BATCH);
        } else {
            assert_eq!(after, before, "whoever runs the tests has chosen");
        }
        assert_eq!(policy(), before);
    }

    #[test]
    fn what_an_operator_has_chosen_stays() {
        let policy = thread::spawn(|| {
            let priority: libc::c_int = 0;
            // SAFETY: as above.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_IDLE,
                    &raw const priority,
                )
            };
            assert_eq!(result, 0);
            as_batch().unwrap();
            policy()
        });
        assert_eq!(policy.join().unwrap(), libc::SCHED_IDLE);
    }
}
