//! The frame of a privileged test binary (`harness = false`): tests that cannot run here are
//! reported as ignored, each with its reason, and counted by `cargo test`'s closing line.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::child::{self, Role};
use crate::privilege::{self, Need};

/// How a test ends: an error's text is the failure's message.
pub type TestResult = Result<(), Box<dyn std::error::Error>>;

/// The tests of one binary.
///
/// ```no_run
/// use ringspan_tests::harness::Suite;
/// use ringspan_tests::privilege::Need;
///
/// fn main() -> std::process::ExitCode {
///     Suite::new()
///         .test("a_namespace_has_loopback", &[Need::Namespaces], || Ok(()))
///         .main()
/// }
/// ```
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
    roles: Vec<Role>,
    serial: bool,
}

impl Suite {
    /// No tests yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test that is ignored, with the reason, unless every one of `needs` is met.
    #[must_use]
    pub fn test(
        mut self,
        name: impl Into<String>,
        needs: &[Need],
        body: impl FnOnce() -> TestResult + Send + 'static,
    ) -> Self {
        let needs = needs.to_vec();
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some(reason) = privilege::missing(&needs) {
                return Ok(Completion::ignored_with(reason));
            }
            match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => Ok(Completion::Completed),
                Ok(Err(error)) => Err(Failed::from(describe(error.as_ref()))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }));
        self
    }

    /// Lets this binary start itself again in another part; see [`child`].
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// Runs one test after the other: for tests that load the machine.
    #[must_use]
    pub fn serial(mut self) -> Self {
        self.serial = true;
        self
    }

    /// Runs the tests as the command line asks; the exit code is `cargo test`'s.
    #[must_use]
    pub fn main(self) -> ExitCode {
        if let Some(code) = child::dispatch(&self.roles) {
            return code;
        }
        child::clean_up_on_signals();
        let mut arguments = Arguments::from_args();
        if self.serial {
            arguments.test_threads = Some(1);
        }
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

/// An error with its sources, outermost first.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
