//! Proposals as texts: what is read is shown in a form that reads as the same.

#![no_main]

use ike::Identity;
use ike::wire::proposal::{ChildProposal, IkeProposal, parse_child_list, parse_ike_list};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse_ike_list(text) {
        Ok(list) => {
            for proposal in list {
                assert_eq!(
                    proposal.to_string().parse::<IkeProposal>().as_ref(),
                    Ok(&proposal)
                );
                assert!(!proposal.to_wire(1, None).transforms.is_empty());
            }
        }
        Err(error) => drop(error.to_string()),
    }
    match parse_child_list(text) {
        Ok(list) => {
            for proposal in list {
                assert_eq!(
                    proposal.to_string().parse::<ChildProposal>().as_ref(),
                    Ok(&proposal)
                );
                assert!(!proposal.to_wire(1, 256, true).transforms.is_empty());
            }
        }
        Err(error) => drop(error.to_string()),
    }
    if let Ok(selector) = text.parse::<ip::Selector>() {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
    if let Ok(identity) = text.parse::<Identity>() {
        let _ = identity.to_string();
    }
});
