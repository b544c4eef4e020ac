//! The way to the peer: DF, and what does not fit.

use esp::tunnel::DfRule;

use super::*;

/// Two ends whose left one builds outer headers by the rule.
fn ends_with(df: DfRule) -> (End, End) {
    let (mut left, right) = ends();
    left.install(SaPair {
        df,
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    (left, right)
}

//= rfc4301#section-8.1
//= type=test
//# This means that it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy from
//# inner header) for each SA.
#[test]
fn the_outer_df_bit_follows_the_rule_of_the_sa() {
    for (rule, with_df, without) in [
        (DfRule::Clear, false, false),
        (DfRule::Set, true, true),
        (DfRule::Copy, true, false),
    ] {
        let (mut left, _) = ends_with(rule);
        for (df, expected) in [(0x40, with_df), (0, without)] {
            let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 100);
            packet[6] = df;
            left.send(&packet);
            let sent = left.io.sent.pop().unwrap();
            assert_eq!(sent.dont_fragment, expected, "{rule:?}, inner {df:#x}");
        }
    }
}
