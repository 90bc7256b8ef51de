//! Child processes that never outlive their parent, and binaries that start themselves again in
//! another part ([`Role`]).

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// The first argument of a process that was started by [`Role::command`] or [`dying_with_parent`].
const MARK: &str = "__ringspan_child";
/// The role of a process that becomes another program.
const EXEC: &str = "exec";

/// A part that a binary plays when it starts itself again: a peer in a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name, unique in the binary.
    pub name: &'static str,
    /// What the process does, given the arguments of [`Role::command`].
    pub main: fn(Vec<String>) -> ExitCode,
}

impl Role {
    /// The arguments that make the binary play this role.
    #[must_use]
    pub fn arguments(&self) -> [&'static str; 2] {
        [MARK, self.name]
    }

    /// The command that starts this binary in this role.
    ///
    /// # Errors
    /// When the path of the running binary cannot be found.
    pub fn command(&self, arguments: &[&str]) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.arguments()).args(arguments);
        Ok(command)
    }
}

/// A command for `program` whose process is told to terminate when the *thread* that started it
/// ends. The binary that calls this has [`dispatch`] at the head of its `main`.
///
/// # Errors
/// When the path of the running binary cannot be found.
pub fn dying_with_parent(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(MARK).arg(EXEC).arg(program);
    Ok(command)
}

/// Plays the role that the command line asks for; `None` in a process that was not started by
/// [`Role::command`] or [`dying_with_parent`].
#[must_use]
pub fn dispatch(roles: &[Role]) -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        eprintln!("cannot ask for the parent's death signal: {error}");
        return Some(ExitCode::FAILURE);
    }
    let name = arguments.next().unwrap_or_default();
    if name == EXEC {
        let program = arguments.next().unwrap_or_default();
        let error = Command::new(&program).args(arguments).exec();
        eprintln!("cannot run {program}: {error}");
        return Some(ExitCode::FAILURE);
    }
    match roles.iter().find(|role| role.name == name) {
        Some(role) => Some((role.main)(arguments.collect())),
        None => {
            eprintln!("this binary plays no role {name}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// A running child: asked to terminate on drop, killed when it does not.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    files: Vec<PathBuf>,
}

impl Process {
    pub(crate) fn new(child: Child, name: String) -> Self {
        Self {
            child,
            name,
            files: Vec::new(),
        }
    }

    /// Removes `file` when the process ends, and when this one is interrupted.
    #[must_use]
    pub fn leaving(mut self, file: PathBuf) -> Self {
        if let Ok(mut left) = LEFT_BEHIND.lock() {
            left.push(file.clone());
        }
        self.files.push(file);
        self
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once the process has ended.
    ///
    /// # Errors
    /// Whatever `waitpid` says.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// `TimedOut` when it did not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} still runs after {limit:?}", self.name),
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The child's standard streams, where they are pipes.
    pub fn streams(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Asks the process to end, as `kill PID` does.
    pub fn terminate(&self) {
        // An error means that it has ended already.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.terminate();
            if self.wait(Duration::from_secs(3)).is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        if let Ok(mut left) = LEFT_BEHIND.lock() {
            left.retain(|file| !self.files.contains(file));
        }
    }
}

/// Files of running children, to be removed when this process is interrupted.
static LEFT_BEHIND: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// On SIGINT and SIGTERM removes the files of running children and ends the process. The children
/// themselves die with it, and so do the namespaces.
pub fn clean_up_on_signals() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            if let Ok(left) = LEFT_BEHIND.lock() {
                for file in left.iter() {
                    let _ = std::fs::remove_file(file);
                }
            }
            std::process::exit(128 + signal);
        }
    });
}
