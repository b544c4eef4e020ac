//! The state machine after authentication: two ends, losses, restarts, rekeys at any moment, and an attacker with keys.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;
use proto_fuzz::world::World;

fuzz_target!(|data: &[u8]| {
    let mut script = Input(data);
    let mut world = World::new(u64::from(script.u8()));
    for _ in 0..100 {
        if script.is_empty() {
            break;
        }
        world.step(&mut script);
    }
});
