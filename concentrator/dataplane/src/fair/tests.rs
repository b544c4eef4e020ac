//! The admission beside a model of the kernel's queue, in virtual time: what comes through when too much comes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;

use esp::DropReason;

use super::admission::{Admission, Run, Standing};
use crate::handover::Parcel;
use crate::io::{Arrival, Lost, PacketIo, PortId, Refused};
use crate::message::{Encap, WorkerCounters, WorkerEvent};

/// Nanoseconds of a turn of the model.
const TURN: u64 = 100_000;
/// Octets of each packet.
const SIZE: u64 = 1_000;
/// Packets that the worker can carry in a turn, and the room of its queue.
const CAPACITY: f64 = 10.0;
const QUEUE: usize = 4_000;
/// What receiving a packet costs, of carrying it.
const LOOK: f64 = 0.3;

/// One sender: an SA of a tenant (0: of nobody), and the packets it sends in a turn.
#[derive(Clone, Copy)]
struct Sender {
    domain: u32,
    spi: u32,
    rate: f64,
}

/// A kernel with a gate before a queue, as [`crate::sys::gate`] makes one.
struct Kernel {
    has_gate: bool,
    is_closed: bool,
    classes: BTreeMap<u32, u16>,
    chances: Vec<u64>,
    lost: Vec<Lost>,
    queue: VecDeque<usize>,
    random: u64,
}

impl Kernel {
    fn draw(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.random >> 32
    }

    /// A packet arrives; true if it was queued.
    fn arrive(&mut self, number: usize, spi: u32) {
        let class = usize::from(self.classes.get(&spi).copied().unwrap_or(0));
        if self.has_gate && self.is_closed && self.draw() < self.chances[class] {
            let lost = &mut self.lost[class];
            lost.bursts += 1;
            lost.packets += 1;
            lost.octets += SIZE;
        } else if self.queue.len() < QUEUE {
            self.queue.push_back(number);
        }
    }
}

impl PacketIo for Kernel {
    fn receive(&mut self, _: &mut [u8]) -> Option<Arrival> {
        None
    }
    fn transmit(
        &mut self,
        _: PortId,
        _: &[u8],
        _: usize,
        _: SocketAddr,
        _: esp::tunnel::Outer,
    ) -> Result<(), Refused> {
        Ok(())
    }
    fn forward(&mut self, _: SocketAddr, _: &Arrival, _: &[u8]) -> Result<u64, Refused> {
        Ok(0)
    }
    fn may_carry(&mut self) -> bool {
        true
    }
    fn read_inner(&mut self, _: &mut [u8]) -> Option<(u32, usize)> {
        None
    }
    fn write_inner(&mut self, _: u32, _: &[IoSlice<'_>]) -> Result<(), Refused> {
        Ok(())
    }
    fn hand_over(&mut self, _: u8, _: Parcel<'_>) -> bool {
        true
    }
    fn event(&mut self, _: WorkerEvent) {}
    fn port(&self, _: SocketAddr, _: Encap) -> Option<PortId> {
        None
    }
    fn describe(&self, _: PortId) -> Option<(SocketAddr, Encap)> {
        None
    }
    fn close_gate(&mut self) {
        self.is_closed = true;
    }
    fn open_gate(&mut self) {
        self.is_closed = false;
    }
    fn assign_class(&mut self, spi: u32, class: u16) -> bool {
        self.classes.insert(spi, class);
        true
    }
    fn forget_class(&mut self, spi: u32) {
        self.classes.remove(&spi);
    }
    fn set_chance(&mut self, class: u16, chance: u64) {
        self.chances[usize::from(class)] = chance;
    }
    fn lost(&self, class: u16) -> Lost {
        self.lost[usize::from(class)]
    }
    fn backlog(&self) -> Option<f64> {
        Some(self.queue.len() as f64 / QUEUE as f64)
    }
}

struct Model {
    kernel: Kernel,
    admission: Admission,
    counters: WorkerCounters,
    standings: BTreeMap<u32, Standing>,
    now: u64,
    energy: f64,
    owed: Vec<f64>,
}

impl Model {
    fn new(has_gate: bool) -> Self {
        Self {
            kernel: Kernel {
                has_gate,
                is_closed: false,
                classes: BTreeMap::new(),
                chances: vec![0; 1024],
                lost: vec![Lost::default(); 1024],
                queue: VecDeque::new(),
                random: 1,
            },
            admission: Admission::new(),
            counters: WorkerCounters::default(),
            standings: BTreeMap::new(),
            now: 0,
            energy: 0.0,
            owed: Vec::new(),
        }
    }

    /// Lets them send for so long; gives what each one had carried, in packets a turn.
    fn run(&mut self, senders: &[Sender], milliseconds: u64) -> Vec<f64> {
        let turns = milliseconds * 1_000_000 / TURN;
        let mut carried = vec![0u64; senders.len()];
        self.owed.resize(senders.len(), 0.0);
        for _ in 0..turns {
            let mut arrivals = Vec::new();
            for (number, sender) in senders.iter().enumerate() {
                self.owed[number] += sender.rate;
                while self.owed[number] >= 1.0 {
                    self.owed[number] -= 1.0;
                    arrivals.push(number);
                }
            }
            // In any order, or whoever comes last would find the queue full each time.
            for left in (1..=arrivals.len()).rev() {
                let at = self.kernel.draw() as usize % left;
                let number = arrivals.swap_remove(at);
                self.kernel.arrive(number, senders[number].spi);
            }
            self.energy += CAPACITY;
            while self.energy > 0.0 {
                let Some(number) = self.kernel.queue.pop_front() else {
                    self.admission.ran_dry();
                    self.energy = self.energy.min(1.0);
                    break;
                };
                let sender = senders[number];
                let is_gated = self.kernel.has_gate && self.kernel.is_closed;
                if sender.domain == 0 {
                    self.energy -= LOOK;
                    let result = self.admission.admit_stranger(SIZE, is_gated);
                    carried[number] += u64::from(result.is_ok());
                    continue;
                }
                let run = Run {
                    spi: sender.spi,
                    domain: sender.domain,
                    packets: 1,
                    octets: SIZE,
                    is_gated,
                };
                let standing = self.standings.entry(sender.spi).or_default();
                match self.admission.admit(run, standing, &mut self.kernel) {
                    Ok(()) => {
                        self.energy -= 1.0;
                        carried[number] += 1;
                    }
                    Err(reason) => {
                        assert_eq!(reason, DropReason::Overload);
                        self.energy -= LOOK;
                    }
                }
            }
            self.now += TURN;
            self.admission
                .tick(self.now, &mut self.kernel, &mut self.counters);
        }
        carried.iter().map(|n| *n as f64 / turns as f64).collect()
    }
}

fn sender(domain: u32, spi: u32, rate: f64) -> Sender {
    Sender { domain, spi, rate }
}

#[test]
fn below_the_capacity_nothing_is_chosen() {
    let mut model = Model::new(true);
    let got = model.run(&[sender(1, 1, 8.0), sender(2, 2, 1.0)], 2_000);
    assert!(got[0] > 7.99 && got[1] > 0.99, "{got:?}");
    assert!(!model.kernel.is_closed && model.kernel.classes.is_empty());
}

#[test]
fn a_burst_that_the_queue_can_hold_is_left_alone() {
    let mut model = Model::new(true);
    for _ in 0..20 {
        // 10 ms at twice the capacity fill a quarter of the queue.
        model.run(&[sender(1, 1, 20.0)], 10);
        model.run(&[sender(1, 1, 0.0)], 30);
    }
    assert_eq!(model.counters.overload_nanos, 0);
}

#[test]
fn three_times_the_capacity_costs_neither_goodput_nor_another_tenant() {
    for has_gate in [true, false] {
        let mut model = Model::new(has_gate);
        let senders = [sender(1, 1, 29.0), sender(2, 2, 1.0)];
        model.run(&senders, 300);
        let got = model.run(&senders, 3_000);
        let goodput: f64 = got.iter().sum();
        if has_gate {
            assert!(got[1] > 0.98 && goodput > 0.97 * CAPACITY, "{got:?}");
        } else {
            // Only a part of what comes can be looked at; the kernel drops of the rest whatever comes last.
            assert!(got[1] > 0.36 && goodput > 0.85 * CAPACITY, "{got:?}");
        }
        let drops = |domain| {
            let of = model.counters.domains.get(&domain);
            of.map_or(0, |drops| drops.get(DropReason::Overload))
        };
        if has_gate {
            assert!(drops(1) > 100_000 && drops(2) < 600, "{} {}", drops(1), drops(2));
        }
        assert!(model.counters.overload_nanos > 2_900_000_000);
    }
}

#[test]
fn tenants_who_all_want_too_much_get_the_same() {
    let mut model = Model::new(true);
    let senders = [
        sender(1, 1, 25.0),
        sender(2, 2, 6.0),
        sender(3, 3, 12.0),
        sender(4, 4, 0.5),
    ];
    model.run(&senders, 500);
    let got = model.run(&senders, 3_000);
    let fair = (CAPACITY - 0.5) / 3.0;
    for share in &got[..3] {
        assert!((share / fair - 1.0).abs() < 0.1, "{got:?}");
    }
    assert!(got[3] > 0.48, "{got:?}");
}

#[test]
fn a_session_that_floods_does_not_starve_its_tenants_others() {
    let mut model = Model::new(true);
    let mut senders = vec![sender(1, 1, 25.0)];
    senders.extend((2..=11).map(|spi| sender(1, spi, 0.4)));
    model.run(&senders, 500);
    let got = model.run(&senders, 3_000);
    // Ten that want 0.4 each, which is less than an eleventh of the capacity.
    for share in &got[1..] {
        assert!(*share > 0.36, "{got:?}");
    }
    let goodput: f64 = got.iter().sum();
    assert!(goodput > 0.95 * CAPACITY, "{got:?}");
}

#[test]
fn forged_packets_do_not_drive_out_true_ones() {
    for has_gate in [true, false] {
        let mut model = Model::new(has_gate);
        // A new SPI each would do the same: none of them is in a class.
        let senders = [sender(0, 77, 60.0), sender(1, 1, 6.0)];
        model.run(&senders, 500);
        let got = model.run(&senders, 3_000);
        let least = if has_gate { 5.7 } else { 2.2 };
        assert!(got[1] > least, "gate {has_gate}: {got:?}");
    }
}

#[test]
fn the_gate_opens_again_and_what_is_gone_is_forgotten() {
    let mut model = Model::new(true);
    model.run(&[sender(1, 1, 30.0), sender(2, 2, 1.0)], 1_000);
    assert!(model.kernel.is_closed && model.kernel.classes.len() == 2);
    let got = model.run(&[sender(1, 1, 5.0), sender(2, 2, 1.0)], 2_000);
    assert!(!model.kernel.is_closed && got[0] > 4.8, "{got:?}");
    assert!(model.kernel.chances.iter().all(|chance| *chance == 0));
    model.admission.forget(1, model.standings[&1]);
    model.run(&[], 20);
    assert_eq!(model.kernel.classes.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn more_tenants_than_classes_and_more_sas_than_fit_are_still_served() {
    let mut model = Model::new(true);
    let senders: Vec<Sender> = (1..=2_000).map(|n| sender(n, n, 0.02)).collect();
    model.run(&senders, 1_000);
    let goodput: f64 = model.run(&senders, 1_000).iter().sum();
    assert!(goodput > 0.95 * CAPACITY, "{goodput}");
}
