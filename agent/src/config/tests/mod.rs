//! What configuration files do: the errors of each format, and properties of both.

mod conf_errors;
mod documents;
mod property;
mod toml_errors;

use std::path::Path;

use super::{ConfigError, Loaded, Overrides, check, toml, wg_quick};
use crate::config::error::Invalid;

pub(super) const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
pub(super) const OWN_PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
pub(super) const PEER_A: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
pub(super) const PEER_B: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

/// Reads `text` as the file `name`, from no disk.
pub(super) fn read(name: &str, text: &str) -> Result<Loaded, ConfigError> {
    let path = Path::new(name);
    let parsed = if name.ends_with(".conf") {
        wg_quick::parse(text)
    } else {
        toml::parse(text)
    };
    parsed
        .and_then(|mut draft| {
            draft.apply(&Overrides::default())?;
            check::finish(draft, path)
        })
        .map_err(|invalid: Invalid| ConfigError::Invalid {
            file: path.to_owned(),
            place: invalid.place,
            problem: invalid.problem,
        })
}

/// The one error of a file that must not be accepted.
pub(super) fn error(name: &str, text: &str) -> String {
    match read(name, text) {
        Ok(loaded) => panic!("accepted:\n{text}\nas {:?}", loaded.config),
        Err(error) => error.to_string(),
    }
}

/// Asserts that an error is one line and holds every one of `parts`.
#[track_caller]
pub(super) fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert!(!error.contains('\n'), "more than one line: {error:?}");
}
