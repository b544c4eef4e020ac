//! Which payloads a message may carry, by exchange and direction. Runs before any handler sees a payload.
//!
//! RFC 7296 fixes no order of payloads, so only presence and number are checked. Vendor IDs and notifies may stand in
//! every message; unknown payloads are skipped unless they are critical.

use super::message::Payloads;
use super::numbers::{ExchangeType, NotifyType, PayloadType};
use super::payload::Payload;

/// Request or response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// A request.
    Request,
    /// A response.
    Response,
}

/// What is wrong with the payloads of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// The exchange type is not known.
    #[error("exchange {0} is not known")]
    UnknownExchange(ExchangeType),
    /// A payload that the message must carry is missing.
    #[error("{0} payload missing")]
    Missing(PayloadType),
    /// A payload that has no place in the message.
    #[error("{0} payload not expected")]
    Unexpected(PayloadType),
    /// More payloads of a type than allowed.
    #[error("more than {limit} payloads of type {kind}")]
    Repeated {
        /// The type.
        kind: PayloadType,
        /// How many are allowed.
        limit: usize,
    },
    /// A payload whose companion is missing.
    #[error("{kind} payload without {companion}")]
    Alone {
        /// The payload that is there.
        kind: PayloadType,
        /// The one that is not.
        companion: PayloadType,
    },
    /// An unknown payload that the sender calls critical.
    #[error("unknown critical payload of type {}", .0.0)]
    UnknownCritical(PayloadType),
}

impl Violation {
    /// The notify that answers a request with this fault.
    pub fn notify(&self) -> NotifyType {
        match self {
            Self::UnknownCritical(_) => NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            Self::UnknownExchange(_)
            | Self::Missing(_)
            | Self::Unexpected(_)
            | Self::Repeated { .. }
            | Self::Alone { .. } => NotifyType::INVALID_SYNTAX,
        }
    }

    /// The data of that notify.
    pub fn notify_data(&self) -> Vec<u8> {
        //= rfc7296#section-2.5
        //# In that Notify payload, the Notification Data contains the one-octet payload type.
        if let Self::UnknownCritical(kind) = self {
            vec![kind.0]
        } else {
            Vec::new()
        }
    }
}

/// How often a payload may occur.
#[derive(Clone, Copy, Debug)]
struct Rule {
    kind: PayloadType,
    min: usize,
    max: usize,
}

const fn one(kind: PayloadType) -> Rule {
    Rule { kind, min: 1, max: 1 }
}

const fn maybe(kind: PayloadType) -> Rule {
    Rule { kind, min: 0, max: 1 }
}

const fn up_to(kind: PayloadType, max: usize) -> Rule {
    Rule { kind, min: 0, max }
}

/// Certificates of a chain, with revocation lists or OCSP answers among them.
pub const CERTIFICATES: usize = 16;
/// CERTREQ payloads: one for each encoding that a peer understands.
pub const CERTIFICATE_REQUESTS: usize = 8;
/// Delete payloads of a message: at least one for each protocol.
pub const DELETES: usize = 32;

/// The payloads of one message, besides notifies and vendor IDs.
struct Table {
    rules: &'static [Rule],
    /// Payload types of which all or none must be there.
    together: &'static [&'static [PayloadType]],
    /// An error notify, or COOKIE, takes the place of what is required.
    refusable: bool,
}

const INIT: &[Rule] = &[
    one(PayloadType::SA),
    one(PayloadType::KE),
    one(PayloadType::NONCE),
];
const INIT_ANSWER: &[Rule] = &[
    one(PayloadType::SA),
    one(PayloadType::KE),
    one(PayloadType::NONCE),
    up_to(PayloadType::CERTREQ, CERTIFICATE_REQUESTS),
];
const AUTH: &[Rule] = &[
    maybe(PayloadType::IDI),
    up_to(PayloadType::CERT, CERTIFICATES),
    up_to(PayloadType::CERTREQ, CERTIFICATE_REQUESTS),
    maybe(PayloadType::IDR),
    maybe(PayloadType::AUTH),
    maybe(PayloadType::CP),
    maybe(PayloadType::SA),
    maybe(PayloadType::TSI),
    maybe(PayloadType::TSR),
    maybe(PayloadType::EAP),
];
const AUTH_ANSWER: &[Rule] = &[
    maybe(PayloadType::IDR),
    up_to(PayloadType::CERT, CERTIFICATES),
    up_to(PayloadType::CERTREQ, CERTIFICATE_REQUESTS),
    maybe(PayloadType::AUTH),
    maybe(PayloadType::CP),
    maybe(PayloadType::SA),
    maybe(PayloadType::TSI),
    maybe(PayloadType::TSR),
    maybe(PayloadType::EAP),
];
const CREATE: &[Rule] = &[
    one(PayloadType::SA),
    one(PayloadType::NONCE),
    maybe(PayloadType::KE),
    maybe(PayloadType::TSI),
    maybe(PayloadType::TSR),
    maybe(PayloadType::CP),
];
const INFORM: &[Rule] = &[up_to(PayloadType::DELETE, DELETES), maybe(PayloadType::CP)];
const INTERMEDIATE: &[Rule] = &[maybe(PayloadType::KE)];
const FOLLOWUP: &[Rule] = &[one(PayloadType::KE)];

const CHILD: &[PayloadType] = &[PayloadType::SA, PayloadType::TSI, PayloadType::TSR];
const SELECTORS: &[PayloadType] = &[PayloadType::TSI, PayloadType::TSR];

fn table(exchange: ExchangeType, direction: Direction) -> Option<Table> {
    let answer = direction == Direction::Response;
    let (rules, together): (_, &[&[PayloadType]]) = match exchange {
        ExchangeType::IKE_SA_INIT if answer => (INIT_ANSWER, &[]),
        ExchangeType::IKE_SA_INIT => (INIT, &[]),
        ExchangeType::IKE_AUTH if answer => (AUTH_ANSWER, &[CHILD]),
        ExchangeType::IKE_AUTH => (AUTH, &[CHILD]),
        ExchangeType::CREATE_CHILD_SA => (CREATE, &[SELECTORS]),
        ExchangeType::INFORMATIONAL => (INFORM, &[]),
        ExchangeType::IKE_INTERMEDIATE => (INTERMEDIATE, &[]),
        ExchangeType::IKE_FOLLOWUP_KE => (FOLLOWUP, &[]),
        _ => return None,
    };
    Some(Table {
        rules,
        together,
        refusable: answer,
    })
}

/// Checks the payloads of a message: of the message itself for IKE_SA_INIT, of its Encrypted payload for all others.
pub fn check(exchange: ExchangeType, direction: Direction, payloads: &[Payload]) -> Result<(), Violation> {
    let table = table(exchange, direction).ok_or(Violation::UnknownExchange(exchange))?;
    let count = |kind| payloads.iter().filter(|payload| payload.kind() == kind).count();

    for payload in payloads {
        let kind = payload.kind();
        match payload {
            //= rfc7296#section-2.5
            //# If the critical flag is set and the payload type is unrecognized, the message MUST be rejected and the response to the IKE request containing that payload MUST include a Notify payload UNSUPPORTED_CRITICAL_PAYLOAD, indicating an unsupported critical payload was included.
            Payload::Unknown { critical: true, .. } => return Err(Violation::UnknownCritical(kind)),
            //= rfc7296#section-2.5
            //# If the critical flag is not set and the payload type is unsupported, that payload MUST be ignored.
            Payload::Unknown { critical: false, .. } => {}
            //= rfc7296#section-3.12
            //# Unfamiliar Vendor IDs MUST be ignored.
            Payload::VendorId(_) | Payload::Notify(_) => {}
            Payload::Sa(_)
            | Payload::Ke(_)
            | Payload::IdI(_)
            | Payload::IdR(_)
            | Payload::Cert(_)
            | Payload::CertReq { .. }
            | Payload::Auth { .. }
            | Payload::Nonce(_)
            | Payload::Delete { .. }
            | Payload::TsI(_)
            | Payload::TsR(_)
            | Payload::Sk(_)
            | Payload::Skf(_)
            | Payload::Cp(_)
            | Payload::Eap(_) => {
                if !table.rules.iter().any(|rule| rule.kind == kind) {
                    return Err(Violation::Unexpected(kind));
                }
            }
        }
    }
    for rule in table.rules {
        if count(rule.kind) > rule.max {
            return Err(Violation::Repeated {
                kind: rule.kind,
                limit: rule.max,
            });
        }
    }
    if table.refusable && is_refusal(payloads) {
        return Ok(());
    }
    for rule in table.rules {
        if count(rule.kind) < rule.min {
            return Err(Violation::Missing(rule.kind));
        }
    }
    for group in table.together {
        let there = group.iter().find(|kind| count(**kind) > 0);
        let absent = group.iter().find(|kind| count(**kind) == 0);
        if let (Some(kind), Some(companion)) = (there, absent) {
            return Err(Violation::Alone {
                kind: *kind,
                companion: *companion,
            });
        }
    }
    Ok(())
}

/// A response that says why, or under which condition, instead of giving what was asked for.
fn is_refusal(payloads: &[Payload]) -> bool {
    let payloads = Payloads(payloads);
    payloads.error().is_some()
        || payloads.notify(NotifyType::COOKIE).is_some()
        || payloads.notify(NotifyType::REDIRECT).is_some()
}
