//! The table of legal payloads, exchange by exchange.

use crate::wire::table::*;
use crate::wire::*;
use Direction::{Request, Response};

fn sample(kind: PayloadType) -> Payload {
    let id = || Identification {
        kind: IdType::FQDN,
        data: b"x".to_vec(),
    };
    let selectors = || vec![TrafficSelector::from(&ip::Selector::ANY_V4)];
    match kind {
        PayloadType::SA => Payload::Sa(SaPayload::default()),
        PayloadType::KE => Payload::Ke(KeyExchange {
            group: KeId::ECP_256,
            data: Vec::new(),
        }),
        PayloadType::IDI => Payload::IdI(id()),
        PayloadType::IDR => Payload::IdR(id()),
        PayloadType::CERT => Payload::Cert(CertPayload {
            encoding: CertEncoding::X509_SIGNATURE,
            data: Vec::new(),
        }),
        PayloadType::CERTREQ => Payload::CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            data: Vec::new(),
        },
        PayloadType::AUTH => Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: Vec::new(),
        },
        PayloadType::NONCE => Payload::Nonce(vec![0; 16]),
        PayloadType::NOTIFY => Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
        PayloadType::DELETE => Payload::Delete {
            protocol: ProtocolId::IKE,
            spis: Vec::new(),
        },
        PayloadType::VENDOR_ID => Payload::VendorId(Vec::new()),
        PayloadType::TSI => Payload::TsI(selectors()),
        PayloadType::TSR => Payload::TsR(selectors()),
        PayloadType::SK => Payload::Sk(EncryptedPayload {
            first: PayloadType::NONE,
            body: Vec::new(),
        }),
        PayloadType::SKF => Payload::Skf(EncryptedFragment {
            first: PayloadType::NONE,
            number: 1,
            total: 1,
            body: Vec::new(),
        }),
        PayloadType::CP => Payload::Cp(Configuration {
            kind: CfgType::REQUEST,
            attributes: Vec::new(),
        }),
        PayloadType::EAP => Payload::Eap(vec![3, 0, 0, 4]),
        kind => panic!("no sample of {kind}"),
    }
}

const ALL: [PayloadType; 17] = [
    PayloadType::SA,
    PayloadType::KE,
    PayloadType::IDI,
    PayloadType::IDR,
    PayloadType::CERT,
    PayloadType::CERTREQ,
    PayloadType::AUTH,
    PayloadType::NONCE,
    PayloadType::NOTIFY,
    PayloadType::DELETE,
    PayloadType::VENDOR_ID,
    PayloadType::TSI,
    PayloadType::TSR,
    PayloadType::SK,
    PayloadType::SKF,
    PayloadType::CP,
    PayloadType::EAP,
];

fn of(kinds: &[PayloadType]) -> Vec<Payload> {
    kinds.iter().map(|kind| sample(*kind)).collect()
}

/// A message that must pass, and the types that may be added to it once; everything else must be refused.
struct Case {
    exchange: ExchangeType,
    direction: Direction,
    required: &'static [PayloadType],
    optional: &'static [PayloadType],
}

const CASES: [Case; 9] = [
    Case {
        exchange: ExchangeType::IKE_SA_INIT,
        direction: Request,
        required: &[PayloadType::SA, PayloadType::KE, PayloadType::NONCE],
        optional: &[PayloadType::NOTIFY, PayloadType::VENDOR_ID],
    },
    Case {
        exchange: ExchangeType::IKE_SA_INIT,
        direction: Response,
        required: &[PayloadType::SA, PayloadType::KE, PayloadType::NONCE],
        optional: &[PayloadType::NOTIFY, PayloadType::VENDOR_ID, PayloadType::CERTREQ],
    },
    Case {
        exchange: ExchangeType::IKE_AUTH,
        direction: Request,
        required: &[],
        optional: &[
            PayloadType::IDI,
            PayloadType::IDR,
            PayloadType::CERT,
            PayloadType::CERTREQ,
            PayloadType::AUTH,
            PayloadType::NOTIFY,
            PayloadType::VENDOR_ID,
            PayloadType::CP,
            PayloadType::EAP,
        ],
    },
    Case {
        exchange: ExchangeType::IKE_AUTH,
        direction: Response,
        required: &[],
        optional: &[
            PayloadType::IDR,
            PayloadType::CERT,
            PayloadType::CERTREQ,
            PayloadType::AUTH,
            PayloadType::NOTIFY,
            PayloadType::VENDOR_ID,
            PayloadType::CP,
            PayloadType::EAP,
        ],
    },
    Case {
        exchange: ExchangeType::CREATE_CHILD_SA,
        direction: Request,
        required: &[PayloadType::SA, PayloadType::NONCE],
        optional: &[
            PayloadType::NOTIFY,
            PayloadType::VENDOR_ID,
            PayloadType::KE,
            PayloadType::CP,
        ],
    },
    Case {
        exchange: ExchangeType::CREATE_CHILD_SA,
        direction: Response,
        required: &[PayloadType::SA, PayloadType::NONCE],
        optional: &[
            PayloadType::NOTIFY,
            PayloadType::VENDOR_ID,
            PayloadType::KE,
            PayloadType::CP,
        ],
    },
    Case {
        exchange: ExchangeType::INFORMATIONAL,
        direction: Request,
        required: &[],
        optional: &[
            PayloadType::NOTIFY,
            PayloadType::VENDOR_ID,
            PayloadType::DELETE,
            PayloadType::CP,
        ],
    },
    Case {
        exchange: ExchangeType::IKE_INTERMEDIATE,
        direction: Request,
        required: &[],
        optional: &[PayloadType::NOTIFY, PayloadType::VENDOR_ID, PayloadType::KE],
    },
    Case {
        exchange: ExchangeType::IKE_FOLLOWUP_KE,
        direction: Response,
        required: &[PayloadType::KE],
        optional: &[PayloadType::NOTIFY, PayloadType::VENDOR_ID],
    },
];

#[test]
fn every_exchange_takes_its_payloads_and_no_other() {
    for case in &CASES {
        let check = |payloads: &[Payload]| check(case.exchange, case.direction, payloads);
        let base = of(case.required);
        assert_eq!(check(&base), Ok(()), "{} {:?}", case.exchange, case.direction);
        for kind in case.required {
            let without: Vec<_> = base.iter().filter(|p| p.kind() != *kind).cloned().collect();
            assert_eq!(check(&without), Err(Violation::Missing(*kind)));
            let mut twice = base.clone();
            twice.push(sample(*kind));
            assert_eq!(
                check(&twice),
                Err(Violation::Repeated {
                    kind: *kind,
                    limit: 1
                })
            );
        }
        for kind in ALL {
            if case.required.contains(&kind) || matches!(kind, PayloadType::TSI | PayloadType::TSR) {
                continue;
            }
            // In IKE_AUTH an SA never comes without traffic selectors.
            if case.exchange == ExchangeType::IKE_AUTH && kind == PayloadType::SA {
                continue;
            }
            let mut more = base.clone();
            more.push(sample(kind));
            let expected = if case.optional.contains(&kind) {
                Ok(())
            } else {
                Err(Violation::Unexpected(kind))
            };
            assert_eq!(
                check(&more),
                expected,
                "{} {:?} {kind}",
                case.exchange,
                case.direction
            );
        }
    }
}

#[test]
fn the_order_of_payloads_does_not_matter() {
    let mut payloads = of(&[
        PayloadType::NONCE,
        PayloadType::VENDOR_ID,
        PayloadType::KE,
        PayloadType::SA,
    ]);
    assert_eq!(check(ExchangeType::IKE_SA_INIT, Request, &payloads), Ok(()));
    payloads.reverse();
    assert_eq!(check(ExchangeType::IKE_SA_INIT, Request, &payloads), Ok(()));
}

#[test]
fn traffic_selectors_come_in_pairs() {
    let auth = |kinds: &[PayloadType]| check(ExchangeType::IKE_AUTH, Request, &of(kinds));
    let child = [PayloadType::SA, PayloadType::TSI, PayloadType::TSR];
    assert_eq!(auth(&child), Ok(()));
    for missing in 0..3 {
        let mut kinds = child.to_vec();
        let companion = kinds.remove(missing);
        assert!(matches!(auth(&kinds), Err(Violation::Alone { companion: c, .. }) if c == companion));
    }
    let create = |kinds: &[PayloadType]| check(ExchangeType::CREATE_CHILD_SA, Request, &of(kinds));
    assert_eq!(
        create(&[PayloadType::SA, PayloadType::NONCE]),
        Ok(()),
        "an IKE rekey has none"
    );
    let one = [PayloadType::SA, PayloadType::NONCE, PayloadType::TSR];
    assert!(matches!(create(&one), Err(Violation::Alone { .. })));
}

#[test]
fn a_refusal_needs_nothing_but_its_notify() {
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_KE_PAYLOAD,
        NotifyType::COOKIE,
        NotifyType(8191),
    ] {
        let refusal = [Payload::Notify(Notify::new(kind))];
        assert_eq!(
            check(ExchangeType::IKE_SA_INIT, Response, &refusal),
            Ok(()),
            "{kind}"
        );
        let request = check(ExchangeType::IKE_SA_INIT, Request, &refusal);
        assert_eq!(request, Err(Violation::Missing(PayloadType::SA)), "{kind}");
    }
    let status = [Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT))];
    let response = check(ExchangeType::CREATE_CHILD_SA, Response, &status);
    assert_eq!(response, Err(Violation::Missing(PayloadType::SA)));
}

#[test]
fn unknown_payloads_are_skipped_unless_they_are_critical() {
    let unknown = |critical| {
        vec![Payload::Unknown {
            kind: PayloadType(49),
            critical,
            data: Vec::new(),
        }]
    };
    //= rfc7296#section-2.5
    //= type=test
    //# If the critical flag is not set and the payload type is unsupported, that payload MUST be ignored.
    assert_eq!(
        check(ExchangeType::INFORMATIONAL, Request, &unknown(false)),
        Ok(())
    );
    //= rfc7296#section-2.5
    //= type=test
    //# If the critical flag is set and the payload type is unrecognized, the message MUST be rejected and the response to the IKE request containing that payload MUST include a Notify payload UNSUPPORTED_CRITICAL_PAYLOAD, indicating an unsupported critical payload was included.
    let violation = check(ExchangeType::INFORMATIONAL, Request, &unknown(true)).unwrap_err();
    assert_eq!(violation, Violation::UnknownCritical(PayloadType(49)));
    assert_eq!(violation.notify(), NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    //= rfc7296#section-2.5
    //= type=test
    //# In that Notify payload, the Notification Data contains the one-octet payload type.
    assert_eq!(violation.notify_data(), [49]);
}

#[test]
fn vendor_ids_and_notifies_never_change_the_verdict() {
    //= rfc7296#section-3.12
    //= type=test
    //# Unfamiliar Vendor IDs MUST be ignored.
    for case in &CASES {
        for kinds in [case.required, case.optional] {
            let plain = of(kinds);
            let verdict = check(case.exchange, case.direction, &plain);
            let mut dressed = plain;
            for place in (0..=dressed.len()).rev() {
                dressed.insert(place, Payload::VendorId(b"RFC 9999 draft".to_vec()));
                dressed.insert(place, Payload::Notify(Notify::new(NotifyType(50_000))));
            }
            assert_eq!(check(case.exchange, case.direction, &dressed), verdict);
        }
    }
}

#[test]
fn lists_are_bounded() {
    let many = of(&[PayloadType::CERT; CERTIFICATES + 1]);
    let verdict = check(ExchangeType::IKE_AUTH, Request, &many);
    assert_eq!(
        verdict,
        Err(Violation::Repeated {
            kind: PayloadType::CERT,
            limit: CERTIFICATES
        })
    );
    assert_eq!(check(ExchangeType::IKE_AUTH, Request, &many[1..]), Ok(()));
}

#[test]
fn unknown_exchanges_are_told() {
    let violation = check(ExchangeType(200), Request, &[]).unwrap_err();
    assert_eq!(violation, Violation::UnknownExchange(ExchangeType(200)));
    assert_eq!(violation.notify(), NotifyType::INVALID_SYNTAX);
}
