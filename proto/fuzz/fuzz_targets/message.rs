//! Whole datagrams in the clear: whatever is read can be written again and reads as the same.

#![no_main]

use ike::wire::{Header, Message, PayloadType, table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    read(data);
    // The same with a length that fits, which mutations rarely find.
    if let Some(field) = data.len().checked_sub(1).filter(|last| *last >= Header::LEN) {
        let mut fitting = data.to_vec();
        let length = u32::try_from(field + 1).unwrap_or(0).to_be_bytes();
        fitting[24..28].copy_from_slice(&length);
        fitting[17] = 0x20;
        fitting[7] |= 1;
        read(&fitting);
    }
});

fn read(data: &[u8]) {
    match Message::decode(data) {
        Ok(message) => {
            let written = message.encode().expect("what was read fits");
            assert!(written.len() <= data.len());
            let again = Message::decode(&written).expect("what was written can be read");
            assert_eq!(again.payloads, message.payloads);
            for direction in [table::Direction::Request, table::Direction::Response] {
                if let Err(violation) = table::check(message.header.exchange, direction, &message.payloads) {
                    let _ = (violation.to_string(), violation.notify(), violation.notify_data());
                }
            }
            assert!(message.view().sa().is_none() || message.header.next_payload != PayloadType::NONE);
        }
        Err(error) => {
            let _ = (error.to_string(), error.notify(), error.notify_data());
        }
    }
}
