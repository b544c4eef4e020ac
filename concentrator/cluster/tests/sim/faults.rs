//! Faults: what they are, when they come, and that they end.

use std::rc::Rc;
use std::time::Duration;

use cluster::{Input, Order};

use crate::world::{What, World};

/// What goes wrong, or is asked for.
#[derive(Clone, Debug)]
pub enum Kind {
    Kill {
        node: usize,
        notice: bool,
    },
    KillTwo {
        first: usize,
        second: usize,
        notice: bool,
    },
    PowerCut,
    Pause {
        node: usize,
    },
    ClusterLink {
        node: usize,
    },
    Isolated {
        node: usize,
    },
    OneWay {
        from: usize,
        to: usize,
    },
    Flapping {
        node: usize,
    },
    Loss {
        percent: u64,
    },
    ServiceLink {
        node: usize,
    },
    StoreLink {
        node: usize,
    },
    StoreStall,
    NodeAndLeader {
        node: usize,
        notice: bool,
    },
    BadWatches,
    LeaseRevoked {
        node: usize,
        zombie: bool,
    },
    Restore,
    Wipe,
    Drain {
        node: usize,
    },
    Move {
        node: usize,
        slot: u8,
        to: usize,
    },
    Leave {
        node: usize,
    },
    Rolling,
    Raise {
        node: usize,
    },
    SlowShell {
        node: usize,
    },
    ClockJump {
        node: usize,
        by: i64,
    },
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub at: Duration,
    pub lasts: Duration,
}

impl World {
    /// Makes a plan of so many faults between then and then.
    pub fn plan(&mut self, count: usize, from: Duration, to: Duration) {
        self.at(
            from.saturating_sub(Duration::from_secs(2)),
            What::Fault(usize::MAX),
        );
        for _ in 0..count {
            let span = (to - from).as_millis() as u64;
            let at = from + Duration::from_millis(self.random.below(span.max(1)));
            let kind = self.any_fault();
            let lasts = self.duration(&kind);
            self.add_fault(Fault { kind, at, lasts });
        }
    }

    pub fn add_fault(&mut self, fault: Fault) {
        let index = self.faults.len();
        self.report.faults.push(format!(
            "{:.3} s, for {:.3} s: {:?}",
            fault.at.as_secs_f64(),
            fault.lasts.as_secs_f64(),
            fault.kind
        ));
        self.at(fault.at, What::Fault(index));
        self.at(fault.at + fault.lasts, What::Heal(index));
        self.faults.push(fault);
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    fn other_node(&mut self, than: usize) -> usize {
        let count = self.nodes.len();
        match count {
            1 => than,
            _ => (than + 1 + self.random.below(count as u64 - 1) as usize) % count,
        }
    }

    fn any_fault(&mut self) -> Kind {
        let node = self.any_node();
        let other = self.other_node(node);
        let notice = self.random.percent(60);
        let slot = self.random.below(u64::from(self.options.slots)) as u8;
        match self.random.below(26) {
            0..=2 => Kind::Kill { node, notice },
            3 => Kind::KillTwo {
                first: node,
                second: other,
                notice,
            },
            4 => Kind::PowerCut,
            5 | 6 => Kind::Pause { node },
            7 => Kind::ClusterLink { node },
            8 => Kind::Isolated { node },
            9 => Kind::OneWay {
                from: node,
                to: other,
            },
            10 => Kind::Flapping { node },
            11 => Kind::Loss {
                percent: self.random.between(5, 25),
            },
            12 => Kind::ServiceLink { node },
            13 => Kind::StoreLink { node },
            14 => Kind::StoreStall,
            15 => Kind::NodeAndLeader { node, notice },
            16 => Kind::BadWatches,
            17 => Kind::LeaseRevoked { node, zombie: notice },
            18 => Kind::Restore,
            19 => Kind::Wipe,
            20 => Kind::Drain { node },
            21 => Kind::Move {
                node,
                slot,
                to: other,
            },
            22 => Kind::Leave { node },
            23 => match self.random.below(2) {
                0 => Kind::Rolling,
                _ => Kind::SlowShell { node },
            },
            24 => Kind::Raise { node },
            _ => Kind::ClockJump {
                node,
                by: self.random.between(0, 20_000) as i64 - 10_000,
            },
        }
    }

    fn duration(&mut self, kind: &Kind) -> Duration {
        match kind {
            Kind::Pause { .. } => {
                let choices = [1_000.0, 5_000.0, 300.0, 1_700.0, 12_000.0, 60_000.0];
                let ms = choices[self
                    .random
                    .below(if self.random.clone().percent(5) { 6 } else { 5 })
                    as usize];
                Duration::from_micros((ms * 1_000.0) as u64)
            }
            Kind::Kill { .. } | Kind::KillTwo { .. } | Kind::NodeAndLeader { .. } | Kind::PowerCut => {
                self.random.ms(50.0, 8_000.0)
            }
            Kind::StoreStall => match self.random.percent(70) {
                true => self.random.ms(1_800.0, 3_000.0),
                false => self.random.ms(5_000.0, 20_000.0),
            },
            Kind::Raise { .. } | Kind::LeaseRevoked { .. } | Kind::Move { .. } | Kind::ClockJump { .. } => {
                Duration::from_millis(100)
            }
            Kind::Restore | Kind::Wipe => self.random.ms(100.0, 4_000.0),
            _ => self.random.ms(200.0, 8_000.0),
        }
    }

    fn cut(&mut self, node: usize, path: Option<usize>, percent: u64) {
        for other in 0..self.nodes.len() {
            for way in (0..2).filter(|way| path.is_none_or(|path| path == *way)) {
                self.loss.insert((node, other, way), percent);
                self.loss.insert((other, node, way), percent);
            }
        }
    }

    fn notices(&mut self, node: usize, incarnation: u64) {
        let key = crypto::Secret::from(&b"the key of the simulated cluster"[..]);
        let name = self.nodes[node].name.clone();
        for seq in 0..3_u64 {
            let bytes = Rc::new(cluster::death_notice(&key, &name, incarnation, seq));
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                for path in 0..2 {
                    let source = self.nodes[node].addresses[path];
                    self.carry(node, other, path, source, Rc::clone(&bytes));
                }
            }
        }
    }

    pub fn kill(&mut self, node: usize, notice: bool) {
        if self.nodes[node].core.is_none() {
            return;
        }
        let incarnation = self.nodes[node].incarnation;
        self.kill_node(node);
        if notice {
            self.notices(node, incarnation);
        }
    }

    pub fn order(&mut self, node: usize, order: Order) {
        self.serial += 1;
        let id = self.serial;
        if self.nodes[node].paused.is_none() {
            self.input(node, Input::Order { id, order });
        }
    }

    fn service(&mut self, node: usize, up: bool) {
        if self.nodes[node].service != up {
            self.nodes[node].service = up;
            let life = self.nodes[node].life;
            self.after(
                Duration::from_millis(2),
                What::Input {
                    node,
                    life,
                    input: Input::Service { up },
                },
            );
        }
    }

    fn store_link(&mut self, node: usize, up: bool) {
        self.store_links[node] = up;
        if up && self.nodes[node].identity == self.etcd.identity {
            self.list(node);
        }
    }

    pub fn begin_fault(&mut self, index: usize) {
        let Some(fault) = self.faults.get(index).cloned() else {
            self.etcd.take_backup();
            return;
        };
        if self.healing {
            return;
        }
        self.trace(|| format!("FAULT {:?} for {:?}", fault.kind, fault.lasts));
        let now = self.now;
        match fault.kind {
            Kind::Kill { node, notice } => self.kill(node, notice),
            Kind::KillTwo {
                first,
                second,
                notice,
            } => {
                self.kill(first, notice);
                let after = self.random.ms(0.0, 900.0);
                let index = self.faults.len();
                self.faults.push(Fault {
                    kind: Kind::Kill { node: second, notice },
                    at: now + after,
                    lasts: fault.lasts,
                });
                self.after(after, What::Fault(index));
                self.after(after + fault.lasts, What::Heal(index));
            }
            Kind::PowerCut => (0..self.nodes.len()).for_each(|node| self.kill(node, false)),
            Kind::NodeAndLeader { node, notice } => {
                self.kill(node, notice);
                let stall = self.random.ms(1_800.0, 3_000.0);
                self.stall(stall);
            }
            Kind::Pause { node } => {
                if self.nodes[node].core.is_some() {
                    self.nodes[node].paused.get_or_insert(now);
                }
            }
            Kind::ClusterLink { node } => self.cut(node, Some(0), 100),
            Kind::Isolated { node } => self.cut(node, None, 100),
            Kind::OneWay { from, to } => {
                for path in 0..2 {
                    self.loss.insert((from, to, path), 100);
                }
            }
            Kind::Flapping { node } => {
                self.cut(node, None, 100);
                let (mut at, mut up) = (now, false);
                while at < now + fault.lasts {
                    at += self.random.ms(100.0, 900.0);
                    up = !up;
                    let index = self.faults.len();
                    self.faults.push(Fault {
                        kind: Kind::Isolated { node },
                        at,
                        lasts: Duration::ZERO,
                    });
                    self.at(at, if up { What::Heal(index) } else { What::Fault(index) });
                }
            }
            Kind::Loss { percent } => self.noise = percent,
            Kind::ServiceLink { node } => self.service(node, false),
            Kind::StoreLink { node } => self.store_link(node, false),
            Kind::StoreStall => self.stall(fault.lasts),
            Kind::BadWatches => self.bad_watches = true,
            Kind::LeaseRevoked { node, zombie } => {
                if let Some(lease) = self.nodes[node].lease {
                    let events = self.etcd.revoke(lease.0);
                    if zombie {
                        self.etcd.zombies.insert(lease.0, now + Duration::from_secs(5));
                    }
                    self.publish(&events);
                }
            }
            Kind::Restore | Kind::Wipe => {
                let backup = match fault.kind {
                    Kind::Restore => self.etcd.backup.clone(),
                    _ => None,
                };
                // Members are stopped, restored, started.
                self.etcd.down_until = now + fault.lasts;
                self.etcd.restore(backup, now);
                self.etcd.renew_all(now + fault.lasts);
            }
            Kind::Drain { node } => self.order(node, Order::Drain),
            Kind::Leave { node } => self.order(node, Order::Leave),
            Kind::Move { node, slot, to } => {
                let to = self.nodes[to].name.clone();
                self.order(node, Order::Move { slot, to });
            }
            Kind::Rolling => {
                for node in 0..self.nodes.len() {
                    let at = now + Duration::from_millis(2_500) * node as u32;
                    for (after, kind) in [
                        (0, Kind::Drain { node }),
                        (1_200, Kind::Kill { node, notice: true }),
                    ] {
                        let index = self.faults.len();
                        let at = at + Duration::from_millis(after);
                        self.faults.push(Fault {
                            kind,
                            at,
                            lasts: Duration::from_millis(800),
                        });
                        self.at(at, What::Fault(index));
                        if after > 0 {
                            self.at(at + Duration::from_millis(800), What::Heal(index));
                        }
                    }
                }
            }
            Kind::Raise { node } => {
                for slot in self.nodes[node].slots.keys().copied().collect::<Vec<_>>() {
                    self.raise(node, slot);
                }
            }
            Kind::SlowShell { node } => self.nodes[node].slow = true,
            Kind::ClockJump { node, by } => self.nodes[node].clock += by,
        }
    }

    fn stall(&mut self, lasts: Duration) {
        let until = self.now + lasts;
        self.etcd.down_until = self.etcd.down_until.max(until);
        let end = self.etcd.down_until;
        self.etcd.renew_all(end);
    }

    pub fn end_fault(&mut self, index: usize) {
        let Some(fault) = self.faults.get(index).cloned() else {
            return;
        };
        match fault.kind {
            Kind::Kill { node, .. } | Kind::NodeAndLeader { node, .. } => self.boot_node(node),
            Kind::KillTwo { first, .. } => self.boot_node(first),
            Kind::PowerCut => (0..self.nodes.len()).for_each(|node| self.boot_node(node)),
            Kind::Pause { node } => self.resume(node),
            Kind::ClusterLink { node } | Kind::Isolated { node } | Kind::Flapping { node } => {
                self.cut(node, None, 0);
            }
            Kind::OneWay { from, to } => {
                for path in 0..2 {
                    self.loss.remove(&(from, to, path));
                }
            }
            Kind::Loss { .. } => self.noise = if self.options.noise { 3 } else { 0 },
            Kind::ServiceLink { node } => self.service(node, true),
            Kind::StoreLink { node } => self.store_link(node, true),
            Kind::BadWatches => {
                self.bad_watches = false;
                (0..self.nodes.len()).for_each(|node| self.list(node));
            }
            Kind::Drain { node } => self.order(node, Order::Undrain),
            Kind::Leave { node } => self.order(node, Order::Join),
            Kind::SlowShell { node } => self.nodes[node].slow = false,
            Kind::StoreStall
            | Kind::LeaseRevoked { .. }
            | Kind::Restore
            | Kind::Wipe
            | Kind::Move { .. }
            | Kind::Rolling
            | Kind::Raise { .. }
            | Kind::ClockJump { .. } => {}
        }
    }

    /// Everything is repaired.
    pub fn heal(&mut self) {
        self.healing = true;
        self.trace(|| "HEALING".to_owned());
        self.loss.clear();
        self.noise = 0;
        self.bad_watches = false;
        self.etcd.down_until = self.etcd.down_until.min(self.now);
        for node in 0..self.nodes.len() {
            self.resume(node);
            self.service(node, true);
            self.nodes[node].slow = false;
            self.boot_node(node);
            self.store_link(node, true);
            self.list(node);
            self.order(node, Order::Undrain);
            self.order(node, Order::Join);
        }
    }
}
