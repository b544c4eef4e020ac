#![allow(clippy::unwrap_used, reason = "tests")]
use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::sys::neighbours::{Neighbour, Route};

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const ROUTER: Mac = [2, 0, 0, 0, 0, 9];
const OTHER: Mac = [2, 0, 0, 0, 0, 10];

/// A kernel that says what it is told to, and counts.
#[derive(Clone, Default)]
struct Fake {
    route: Rc<Cell<Option<Route>>>,
    neighbour: Rc<Cell<Option<Neighbour>>>,
    asked: Rc<Cell<u32>>,
}

impl Kernel for Fake {
    fn route(&self, _: IpAddr, _: IpAddr) -> Option<Route> {
        self.asked.set(self.asked.get() + 1);
        self.route.get()
    }
    fn neighbour(&self, _: u32, _: IpAddr) -> Option<Neighbour> {
        self.neighbour.get()
    }
}

fn router() -> IpAddr {
    [192, 0, 2, 254].into()
}

fn peer(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0xcb00_7100 + number).into()
}

struct World {
    fake: Fake,
    hops: Hops<Fake>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (fake, now) = (Fake::default(), Instant::now());
        fake.route.set(Some(Route {
            device: 3,
            gateway: Some(router()),
            mtu: None,
        }));
        fake.neighbour.set(Some(Neighbour {
            mac: ROUTER,
            confirmed: true,
        }));
        let device = |index| Device {
            index,
            name: format!("eth{index}"),
            mac: OURS,
            mtu: 1500,
        };
        let hops = Hops::new(fake.clone(), vec![device(2), device(3)], now);
        Self { fake, hops, now }
    }

    fn way(&mut self, number: u32) -> Option<Way> {
        self.hops.way([192, 0, 2, 1].into(), peer(number), 1, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn a_way_is_asked_for_once_and_has_device_addresses_and_mtu() {
    let mut world = World::new();
    let first = world.way(1).unwrap();
    let ethernet = [ROUTER, OURS].concat();
    assert_eq!(
        (first.device, first.mtu, &first.ethernet[..]),
        (1, 1500, &ethernet[..])
    );
    let second = world.way(1).unwrap();
    assert_eq!(
        second.identification,
        first.identification.wrapping_add(1),
        "each packet has another"
    );
    assert_eq!(world.fake.asked.get(), 1);
    world.pass(FRESH);
    assert!(world.way(1).is_some());
    assert_eq!(world.fake.asked.get(), 2);
    world.fake.route.set(Some(Route {
        device: 3,
        gateway: Some(router()),
        mtu: Some(1300),
    }));
    world.pass(FRESH);
    assert_eq!(world.way(1).unwrap().mtu, 1300);
}

#[test]
fn what_leaves_elsewhere_or_is_not_known_goes_by_the_socket_until_asked_again() {
    let mut world = World::new();
    let route = world.fake.route.replace(None);
    assert_eq!(world.way(1), None);
    world.fake.route.set(route);
    assert_eq!(
        (world.way(1), world.fake.asked.get()),
        (None, 1),
        "not asked at once"
    );
    world.pass(FRESH_UNKNOWN);
    assert!(world.way(1).is_some());
    world.fake.route.set(Some(Route {
        device: 7,
        gateway: None,
        mtu: None,
    }));
    assert_eq!(world.way(2), None, "a device without AF_XDP");
    world.fake.route.set(route);
    world.pass(FRESH);
    // The router does not answer, then does: no second is lost then.
    world.fake.neighbour.set(None);
    assert_eq!(world.way(1), None);
    world.fake.neighbour.set(Some(Neighbour {
        mac: ROUTER,
        confirmed: true,
    }));
    let change = Change::Neighbour {
        device: 3,
        address: router(),
        mac: Some(ROUTER),
    };
    assert_eq!(world.hops.changed(change), None);
    assert!(world.way(1).is_some());
}

#[test]
fn an_unconfirmed_neighbour_gets_one_packet_from_the_kernel_each_time() {
    let mut world = World::new();
    world.fake.neighbour.set(Some(Neighbour {
        mac: ROUTER,
        confirmed: false,
    }));
    assert_eq!(world.way(1), None);
    assert!(world.way(1).is_some());
    world.pass(FRESH);
    assert_eq!(world.way(1), None);
    world.pass(FRESH);
    world.fake.neighbour.set(Some(Neighbour {
        mac: ROUTER,
        confirmed: true,
    }));
    assert!(world.way(1).is_some());
}

#[test]
fn changes_count_from_the_next_window_on() {
    let mut world = World::new();
    assert!(world.way(1).is_some());
    // The same again is no change.
    let address = router();
    world.hops.changed(Change::Neighbour {
        device: 3,
        address,
        mac: Some(ROUTER),
    });
    world.pass(WINDOW);
    assert!(world.way(1).is_some());
    assert_eq!(world.fake.asked.get(), 1);
    world.fake.neighbour.set(Some(Neighbour {
        mac: OTHER,
        confirmed: true,
    }));
    world.hops.changed(Change::Neighbour {
        device: 3,
        address,
        mac: Some(OTHER),
    });
    world.pass(WINDOW);
    assert_eq!(world.way(1).unwrap().ethernet.first_chunk::<6>(), Some(&OTHER));
    assert_eq!(world.hops.changed(Change::Device { device: 3, mtu: 1280 }), None);
    world.pass(WINDOW);
    assert_eq!(world.way(1).unwrap().mtu, 1280);
    assert_eq!(world.hops.changed(Change::Gone { device: 9 }), None);
    assert_eq!(world.hops.changed(Change::Gone { device: 3 }), Some(1));
    world.fake.route.set(None);
    world.pass(WINDOW);
    assert_eq!(world.way(1), None);
}

#[test]
fn there_is_an_end_to_questions_and_to_what_is_kept() {
    let mut world = World::new();
    for number in 0..QUESTIONS {
        assert!(world.way(number).is_some());
    }
    assert_eq!(world.way(QUESTIONS), None, "by the socket, until the next window");
    assert_eq!(world.fake.asked.get(), QUESTIONS);
    world.pass(WINDOW);
    assert!(world.way(QUESTIONS).is_some());
    // Nobody has time to ask: what is known is used for a while.
    world.pass(FRESH);
    world.hops.way([192, 0, 2, 1].into(), peer(0), 1, world.now);
    world.hops.questions = QUESTIONS;
    assert!(world.way(1).is_some());
    world.pass(USABLE);
    world.hops.turn_over(world.now);
    world.hops.questions = QUESTIONS;
    assert_eq!(world.way(1), None);
    for number in 0..MAX_KEPT as u32 + 10 {
        world.hops.questions = 0;
        world.way(number);
        assert!(world.hops.hops.len() <= MAX_KEPT);
    }
}
