//! An initiator made by hand, message by message: for clients that are not like ours, and for those that mean ill.

use std::net::SocketAddr;
use std::time::Instant;

use crypto::dh::KeyPair;
use crypto::{Group, Opener, Prf, Sealer, Secret, SeededRandom};
use ike::auth::AuthOctets;
use ike::keys::{IkeKeys, shared_key_auth, skeyseed};
use ike::wire::protect::{Content, IvSource, open, seal};
use ike::wire::{
    Attribute, AttributeType, AuthMethod, CfgType, Configuration, ExchangeType, Flags, Header, IdType,
    Identification, KeId, KeyExchange, Message, Notify, NotifyType, Payload, Payloads, Progress, Proposal,
    ProtocolId, Reassembler, SaPayload, Spi, TrafficSelector, Transform, TransformType, decode_payloads,
    encode_payloads,
};
use ike::{IkeSa, IkeSuite, InitPolicy, Input, Role, nat};

use crate::pair::{CLIENT, GATEWAY, Proof, Setup, Side, Spis};

/// A transform by its numbers.
pub fn t(kind: u8, id: u16) -> Transform {
    Transform::new(TransformType(kind), id)
}

/// A cipher with a key length.
pub fn enc(id: u16, bits: u16) -> Transform {
    Transform::with_key(TransformType::ENCR, id, bits)
}

pub fn proposal(number: u8, protocol: ProtocolId, spi: &[u8], transforms: Vec<Transform>) -> Proposal {
    Proposal {
        number,
        protocol,
        spi: spi.to_vec(),
        transforms,
    }
}

pub fn any_v4() -> TrafficSelector {
    TrafficSelector::from(&ip::Selector::ANY_V4)
}

pub fn any_v6() -> TrafficSelector {
    TrafficSelector::from(&ip::Selector::ANY_V6)
}

/// AES-CBC-256 and SHA-256 for ESP, as nearly everybody offers it.
pub fn esp_offer() -> SaPayload {
    let transforms = vec![enc(12, 256), t(3, 12), t(5, 0)];
    SaPayload {
        proposals: vec![proposal(
            1,
            ProtocolId::ESP,
            &0xc0ff_ee01u32.to_be_bytes(),
            transforms,
        )],
    }
}

pub fn identity(kind: IdType, data: &[u8]) -> Identification {
    Identification {
        kind,
        data: data.to_vec(),
    }
}

pub fn address_request() -> Payload {
    let ask = |kind| Attribute::new(kind, Vec::new());
    Payload::Cp(Configuration {
        kind: CfgType::REQUEST,
        attributes: vec![
            ask(AttributeType::INTERNAL_IP4_ADDRESS),
            ask(AttributeType::INTERNAL_IP4_DNS),
        ],
    })
}

/// A gateway under test and the hand-made client.
pub struct Script {
    pub now: Instant,
    pub gateway: Side,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub spi: Spi,
    pub nonce: Vec<u8>,
    pub pair: KeyPair,
    pub random: SeededRandom,
    pub request: Vec<u8>,
    pub keyed: Option<Keyed>,
}

/// After IKE_SA_INIT.
pub struct Keyed {
    pub payloads: Vec<Payload>,
    pub spi_r: Spi,
    pub keys: IkeKeys,
    pub suite: IkeSuite,
    pub nonce_r: Vec<u8>,
    pub ivs: IvSource,
}

impl Script {
    pub fn new(init: InitPolicy, gateway: Proof, group: Group) -> Self {
        let mut setup = Setup::new(gateway.clone(), gateway);
        setup.init = init;
        let (remote, local): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), GATEWAY.parse().unwrap());
        let spis = Spis::new(0xbbbb);
        let sa = IkeSa::respond(
            setup.now,
            setup.context(&spis, 5),
            setup.init.clone(),
            local,
            remote,
        );
        let mut random = SeededRandom::from_seed(99);
        Self {
            now: setup.now,
            gateway: Side::new(sa, spis, setup.gateway, setup.gateway_policy),
            local,
            remote,
            spi: Spi(0xdead_beef_0000_0001),
            nonce: vec![0x55; 32],
            pair: KeyPair::generate(group, &mut random).unwrap(),
            random,
            request: Vec::new(),
            keyed: None,
        }
    }

    /// Hands a datagram to the gateway.
    pub fn deliver(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let (local, remote) = (self.local, self.remote);
        let sent = self
            .gateway
            .handle(self.now, Input::Datagram { local, remote, bytes });
        sent.into_iter().map(|transmit| transmit.bytes).collect()
    }

    pub fn ke(&self) -> Payload {
        let group = KeId(self.pair.group().id());
        Payload::Ke(KeyExchange {
            group,
            data: self.pair.public().to_vec(),
        })
    }

    pub fn nat(&self) -> [Payload; 2] {
        nat::notifies(self.spi, Spi::ZERO, self.remote, self.local, None).map(Payload::Notify)
    }

    /// IKE_SA_INIT with these payloads.
    pub fn init_with(&mut self, payloads: Vec<Payload>) -> Vec<Vec<u8>> {
        let header = Header::new(
            self.spi,
            Spi::ZERO,
            ExchangeType::IKE_SA_INIT,
            Flags::request(true),
            0,
        );
        self.request = Message::new(header, payloads).encode().unwrap();
        self.deliver(self.request.clone())
    }

    /// IKE_SA_INIT with a proposal; derives keys if the gateway answers with them.
    pub fn init(&mut self, proposals: Vec<Proposal>, more: Vec<Payload>) -> Message {
        let mut payloads = vec![
            Payload::Sa(SaPayload { proposals }),
            self.ke(),
            Payload::Nonce(self.nonce.clone()),
        ];
        payloads.extend(more);
        let answers = self.init_with(payloads);
        assert_eq!(answers.len(), 1, "{:#?}", self.gateway.events);
        let answer = Message::decode(&answers[0]).unwrap();
        if let (Some(ke), Some(nonce_r)) = (answer.ke(), answer.nonce()) {
            let suite = self.gateway_suite();
            let shared = self.pair.derive(&ke.data).unwrap();
            let seed = skeyseed(suite.prf, &self.nonce, nonce_r, &shared);
            let spi_r = answer.header.spi_r;
            self.keyed = Some(Keyed {
                keys: IkeKeys::derive(&seed, suite, &self.nonce, nonce_r, self.spi, spi_r),
                nonce_r: nonce_r.to_vec(),
                payloads: answer.payloads.clone(),
                spi_r,
                suite,
                ivs: IvSource::new(1),
            });
        }
        answer
    }

    /// The suite of the gateway's answer, as its trace names it. Only used suites are here.
    fn gateway_suite(&self) -> IkeSuite {
        use crypto::{Cipher, Integrity, Suite};
        let answer = Message::decode(&self.gateway.sent.last().unwrap().bytes).unwrap();
        let proposal = &answer.sa().unwrap().proposals[0];
        let of = |kind| proposal.of_kind(kind).next();
        let cipher = of(TransformType::ENCR).unwrap();
        let integrity = of(TransformType::INTEG).and_then(|t| Integrity::from_id(t.id));
        IkeSuite {
            suite: Suite::new(
                Cipher::from_transform(cipher.id, cipher.key_bits).unwrap(),
                integrity,
            )
            .unwrap(),
            prf: Prf::from_id(of(TransformType::PRF).unwrap().id).unwrap(),
            group: Group::try_from(of(TransformType::KE).unwrap().id).unwrap(),
        }
    }

    pub fn keyed(&mut self) -> &mut Keyed {
        self.keyed.as_mut().expect("keys")
    }

    /// What we sign.
    pub fn octets(&mut self) -> AuthOctets {
        let message = self.request.clone();
        let keyed = self.keyed();
        AuthOctets {
            message,
            nonce: keyed.nonce_r.clone(),
            prf: keyed.suite.prf,
            sk_p: keyed.keys.sk_pi.clone(),
        }
    }

    pub fn psk_auth(&mut self, id: &Identification, psk: &[u8]) -> Payload {
        let octets = self.octets();
        let data = shared_key_auth(
            octets.prf,
            &Secret::from(psk),
            &octets.octets(&ike::Identity::from(id)),
        );
        Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: data.expose().to_vec(),
        }
    }

    /// Seals payloads under any header fields.
    pub fn sealed(&mut self, exchange: ExchangeType, message_id: u32, payloads: &[Payload]) -> Vec<u8> {
        let (first, plaintext) = encode_payloads(payloads).unwrap();
        self.sealed_octets(exchange, message_id, first, &plaintext)
    }

    pub fn sealed_octets(
        &mut self,
        exchange: ExchangeType,
        message_id: u32,
        first: ike::wire::PayloadType,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let spi = self.spi;
        let keyed = self.keyed.as_mut().expect("keys");
        let (enc, integ) = keyed.keys.sent_by(Role::Initiator);
        let sealer = Sealer::new(keyed.suite.suite, enc.expose(), integ.expose()).unwrap();
        let header = Header::new(spi, keyed.spi_r, exchange, Flags::request(true), message_id);
        seal(
            &header,
            first,
            plaintext,
            &sealer,
            &mut keyed.ivs,
            &mut self.random,
        )
        .unwrap()
    }

    /// IKE_AUTH; the payloads of the answer.
    pub fn auth(&mut self, payloads: &[Payload]) -> Vec<Payload> {
        let bytes = self.sealed(ExchangeType::IKE_AUTH, 1, payloads);
        let answers = self.deliver(bytes);
        self.opened(&answers)
    }

    /// IKE_AUTH with a shared key and everything usual.
    pub fn psk_login(&mut self, id: &Identification, psk: &[u8], more: Vec<Payload>) -> Vec<Payload> {
        let auth = self.psk_auth(id, psk);
        let mut payloads = vec![Payload::IdI(id.clone()), auth];
        payloads.extend(more);
        payloads.push(Payload::Sa(esp_offer()));
        payloads.push(Payload::TsI(vec![any_v4()]));
        payloads.push(Payload::TsR(vec![any_v4()]));
        self.auth(&payloads)
    }

    /// Decrypts what the gateway sent.
    pub fn opened(&mut self, datagrams: &[Vec<u8>]) -> Vec<Payload> {
        let now = self.now;
        let keyed = self.keyed();
        let (enc, integ) = keyed.keys.sent_by(Role::Responder);
        let opener = Opener::new(keyed.suite.suite, enc.expose(), integ.expose()).unwrap();
        let mut reassembler = Reassembler::new();
        for datagram in datagrams {
            let opened = open(datagram, &opener).unwrap();
            let (first, plaintext) = match opened.content {
                Content::Whole { first, plaintext } => (first, plaintext),
                Content::Fragment(fragment) => match reassembler.add(now, 1, fragment) {
                    Progress::Complete { first, plaintext } => (first, plaintext),
                    _ => continue,
                },
            };
            return decode_payloads(first, &plaintext).unwrap();
        }
        panic!("no whole message in {} datagrams", datagrams.len());
    }
}

/// The error notify of an answer.
pub fn error(payloads: &[Payload]) -> Option<NotifyType> {
    Payloads(payloads).error().map(|notify| notify.kind)
}

pub fn status(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind))
}

pub fn selectors(list: &[TrafficSelector]) -> Vec<String> {
    TrafficSelector::to_selectors(list)
        .iter()
        .map(ToString::to_string)
        .collect()
}
