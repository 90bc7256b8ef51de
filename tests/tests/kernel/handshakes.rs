//! A tunnel begun by either end, over IPv4 and IPv6, with and without a preshared key: that the
//! newer kernel takes what the older one takes. (`interop` has every combination for the latter,
//! and far more traffic.)

use ringspan_tests::harness::TestResult;
use ringspan_tests::peers::preshared_key;

use crate::bed::{Bed, Driver, Kind, outer};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    by_us: bool,
    family: u8,
    with_psk: bool,
}

impl Beginning {
    /// Every pair of choices is among them.
    pub(crate) const ALL: [Self; 4] = [
        Self::new(true, 4, false),
        Self::new(true, 6, true),
        Self::new(false, 4, true),
        Self::new(false, 6, false),
    ];

    const fn new(by_us: bool, family: u8, with_psk: bool) -> Self {
        Self {
            by_us,
            family,
            with_psk,
        }
    }

    pub(crate) fn name(self) -> String {
        format!(
            "begun_by_{}::over_ipv{}::{}_psk",
            if self.by_us { "us" } else { "peer" },
            self.family,
            if self.with_psk { "with" } else { "without" },
        )
    }

    pub(crate) fn run(self, kind: Kind, driver: Driver) -> TestResult {
        let mut bed = Bed::strangers(kind, driver)?;
        bed.secret = self.with_psk.then(preshared_key);
        let (ours, theirs) = (
            outer(bed.number, 1, self.family),
            outer(bed.number, 2, self.family),
        );
        if self.by_us {
            bed.tell_them(None, None)?;
            bed.tell_us(Some(theirs))?;
            bed.us.reaches()?;
            bed.peer.reaches()?;
        } else {
            bed.tell_us(None)?;
            bed.tell_them(Some(ours), None)?;
            bed.peer.reaches()?;
            bed.us.reaches()?;
        }
        let counted = |name| bed.us.counter(name);
        let made = (
            counted("responses_accepted"),
            counted("initiations_accepted"),
        );
        let endpoints = (
            bed.us.peer()?.endpoint.map(|at| at.ip()),
            bed.peer.peer()?.endpoint.map(|at| at.ip()),
        );
        let expected = if self.by_us { (1, 0) } else { (0, 1) };
        if made != expected || endpoints != (Some(theirs), Some(ours)) {
            return Err(format!(
                "handshakes {made:?}, expected {expected:?}; endpoints {endpoints:?}"
            )
            .into());
        }
        if self.with_psk {
            return strangers_stay_out(&bed);
        }
        Ok(())
    }
}

/// With another preshared key at our end there is no further session.
fn strangers_stay_out(bed: &Bed) -> TestResult {
    let mut spec = bed.spec(bed.us.peer()?.endpoint.map(|at| at.ip()));
    spec.preshared_key = Some(preshared_key());
    bed.us.apply(&[])?;
    bed.us.apply(&[spec])?;
    if bed.us.knock(4) || bed.us.knock(6) {
        return Err("an answer without a common secret".into());
    }
    if bed.us.peer()?.last_handshake.is_some() {
        return Err("a session without a common secret".into());
    }
    Ok(())
}
