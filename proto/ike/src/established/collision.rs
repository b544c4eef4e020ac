//! Who gives way when both sides rekey the same SA at once (RFC 7296 sections 2.8.1 and 2.8.2).

use serde::{Deserialize, Serialize};

/// The nonces of one CREATE_CHILD_SA exchange.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Nonces {
    /// Of the exchange's initiator.
    pub(super) initiator: Vec<u8>,
    /// Of its responder.
    pub(super) responder: Vec<u8>,
}

impl Nonces {
    /// The lower of the two.
    ///
    /// The order of octet strings is exactly the RFC's: the first octet that differs decides, and a string is above its
    /// own beginnings.
    //= rfc7296#section-2.8.1
    //# If you reach the end of one nonce, that nonce is the lower one.
    fn lowest(&self) -> &[u8] {
        self.initiator.as_slice().min(self.responder.as_slice())
    }
}

/// Which of two SAs that replace the same one has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Redundant {
    /// The one whose exchange we started: we delete it.
    Ours,
    /// The one whose exchange the peer started: the peer deletes it, and we delete the replaced SA.
    Theirs,
}

/// Compares the four nonces.
pub(super) fn redundant(ours: &Nonces, theirs: &Nonces) -> Redundant {
    //= rfc7296#section-2.8.1
    //# If redundant SAs are created through such a collision, the SA created with the lowest of the four nonces used in the two exchanges SHOULD be closed by the endpoint that created it.
    if ours.lowest() < theirs.lowest() {
        Redundant::Ours
    } else {
        Redundant::Theirs
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn nonces(initiator: &[u8], responder: &[u8]) -> Nonces {
        Nonces {
            initiator: initiator.to_vec(),
            responder: responder.to_vec(),
        }
    }

    #[test]
    fn the_sa_with_the_lowest_of_four_nonces_is_redundant() {
        //= rfc7296#section-2.8.1
        //= type=test
        //# If redundant SAs are created through such a collision, the SA created with the lowest of the four nonces used in the two exchanges SHOULD be closed by the endpoint that created it.
        let high = nonces(&[0xff, 1], &[0xff, 2]);
        for low in [nonces(&[0, 9], &[0xff, 0]), nonces(&[0xff, 9], &[0, 0xff])] {
            assert_eq!(redundant(&low, &high), Redundant::Ours);
            assert_eq!(redundant(&high, &low), Redundant::Theirs);
        }
    }

    #[test]
    fn nonces_are_compared_as_octets_and_the_shorter_of_two_equal_beginnings_is_lower() {
        //= rfc7296#section-2.8.1
        //= type=test
        //# If you reach the end of one nonce, that nonce is the lower one.
        let long = nonces(&[5, 5, 5], &[0xff]);
        let short = nonces(&[5, 5], &[0xff]);
        assert_eq!(redundant(&short, &long), Redundant::Ours);
        assert_eq!(redundant(&long, &short), Redundant::Theirs);
        // As integers 0x0100 is above 0xff; as octets it is below.
        assert_eq!(
            redundant(&nonces(&[1, 0], &[0xff]), &nonces(&[0xff], &[0xff])),
            Redundant::Ours
        );
    }
}
