//! Which back end this process uses: the fastest that the CPU can run, or the one that
//! `RINGSPAN_CRYPTO` names. Decided once.

use std::env;
use std::sync::OnceLock;

use super::BatchAead;
#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::library::Library;
use super::portable::Portable;

/// The environment variable that forces a back end by its [`BatchAead::name`].
pub const BACKEND_VARIABLE: &str = "RINGSPAN_CRYPTO";

/// A wish that this process cannot fulfil.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No back end has this name.
    #[error("{BACKEND_VARIABLE}={name:?} names no AEAD back end; known are {KNOWN}")]
    Unknown {
        /// The refused name.
        name: String,
    },
    /// The back end exists but this CPU (or operating system) cannot run it.
    #[error(
        "the AEAD back end {name:?} needs {needs}, which this CPU lacks or the system has not enabled; unset {BACKEND_VARIABLE} to have one chosen"
    )]
    Unsupported {
        /// The back end's name.
        name: &'static str,
        /// The CPU features that it needs.
        needs: &'static str,
    },
}

const KNOWN: &str = "avx512, avx2, aws-lc and portable";

/// One row of the table of back ends.
struct Candidate {
    name: &'static str,
    needs: &'static str,
    /// The back end, where the CPU can run it.
    find: fn() -> Option<&'static dyn BatchAead>,
}

/// Fastest first. A new back end (NEON, say) takes its place here and nowhere else.
static CANDIDATES: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    Candidate {
        name: "avx512",
        needs: Avx512::NEEDS,
        find: Avx512::find,
    },
    #[cfg(target_arch = "x86_64")]
    Candidate {
        name: "avx2",
        needs: Avx2::NEEDS,
        find: Avx2::find,
    },
    Candidate {
        name: "aws-lc",
        needs: "nothing",
        // Miri cannot call into C.
        find: || (!cfg!(miri)).then_some(&Library as &dyn BatchAead),
    },
    Candidate {
        name: "portable",
        needs: "nothing",
        find: || Some(&Portable),
    },
];

/// The back end of this process: what [`BACKEND_VARIABLE`] names, else the fastest that the
/// CPU can run. The first call decides; later ones cost a load.
///
/// # Errors
/// [`BackendError`] where the variable names no back end or one that cannot run here.
pub fn backend() -> Result<&'static dyn BatchAead, BackendError> {
    static CHOSEN: OnceLock<Result<&'static dyn BatchAead, BackendError>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| match env::var_os(BACKEND_VARIABLE) {
            Some(name) if !name.is_empty() => by_name(&name.to_string_lossy()),
            _ => Ok(fastest()),
        })
        .clone()
}

/// The back end called `name`.
///
/// # Errors
/// [`BackendError`] where there is none or it cannot run here.
pub fn by_name(name: &str) -> Result<&'static dyn BatchAead, BackendError> {
    let candidate = CANDIDATES
        .iter()
        .find(|candidate| candidate.name == name)
        .ok_or_else(|| BackendError::Unknown {
            name: name.to_owned(),
        })?;
    (candidate.find)().ok_or(BackendError::Unsupported {
        name: candidate.name,
        needs: candidate.needs,
    })
}

/// Every back end that can run here, fastest first: for benches and conformance tests.
pub fn supported() -> impl Iterator<Item = &'static dyn BatchAead> {
    CANDIDATES.iter().filter_map(|candidate| (candidate.find)())
}

fn fastest() -> &'static dyn BatchAead {
    supported().next().unwrap_or(&Portable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_lists_every_back_end() {
        let error = by_name("sse9").unwrap_err();
        let text = error.to_string();
        for candidate in CANDIDATES {
            assert!(text.contains(candidate.name), "{text}");
        }
        assert!(text.contains("sse9"), "{text}");
    }

    #[test]
    fn a_back_end_that_cannot_run_is_refused_by_name() {
        for candidate in CANDIDATES {
            let name = candidate.name;
            match by_name(name) {
                Ok(found) => {
                    assert!((candidate.find)().is_some());
                    assert_eq!(found.name(), name);
                }
                Err(error) => {
                    assert!((candidate.find)().is_none());
                    assert!(error.to_string().contains(candidate.needs));
                }
            }
        }
    }
}
