//! TCP MSS clamping: a SYN's maximum segment size is lowered to what fits the tunnel.

use crate::config::MssClamp;

const SYN: u8 = 0x02;
const OPTION_MSS: u8 = 2;

/// The largest MSS for packets of an IP version, given the domain's MTU; `None` leaves segments alone.
pub(crate) fn limit(clamp: MssClamp, mtu: u16, is_v4: bool) -> Option<u16> {
    let headers = if is_v4 { 40 } else { 60 };
    match clamp {
        MssClamp::Off => None,
        MssClamp::ToMtu => mtu.checked_sub(headers),
        MssClamp::To(mss) => Some(mss),
    }
}

/// Whether the TCP header at `transport` has SYN set.
pub(crate) fn is_syn(packet: &[u8], transport: usize) -> bool {
    packet.get(transport + 13).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the MSS option of the TCP header at `transport` to `limit` and updates the checksum, which is complete.
pub(crate) fn clamp(packet: &mut [u8], transport: usize, limit: u16) {
    let Some(tcp) = packet.get_mut(transport..) else {
        return;
    };
    let end = tcp
        .get(12)
        .map_or(0, |offset| usize::from(offset >> 4) * 4)
        .min(tcp.len());
    let mut at = 20;
    while let Some(&[kind, len]) = tcp.get(at..end).and_then(|o| o.first_chunk::<2>()) {
        match kind {
            0 => return,
            1 => at += 1,
            OPTION_MSS if len == 4 => {
                lower(tcp, at + 2, limit);
                return;
            }
            _ if len < 2 => return,
            _ => at += usize::from(len),
        }
    }
}

fn lower(tcp: &mut [u8], at: usize, limit: u16) {
    let Some(old) = tcp
        .get(at..at + 2)
        .and_then(|v| v.first_chunk::<2>())
        .map(|v| u16::from_be_bytes(*v))
    else {
        return;
    };
    if old <= limit {
        return;
    }
    if let Some(value) = tcp.get_mut(at..at + 2) {
        value.copy_from_slice(&limit.to_be_bytes());
    }
    if let Some(field) = tcp.get_mut(16..18).and_then(|c| c.first_chunk_mut::<2>()) {
        // An option at an odd offset straddles two words of the sum: swapping its octets puts each into its half.
        let (old, new) = if at.is_multiple_of(2) {
            (old, limit)
        } else {
            (old.swap_bytes(), limit.swap_bytes())
        };
        *field = ip::checksum::update(u16::from_be_bytes(*field), old, new).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn sum(octets: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in octets.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp.extend_from_slice(options);
        tcp.resize(tcp.len().next_multiple_of(4), 0);
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        tcp[13] = SYN;
        let value = !sum(&tcp);
        tcp[16..18].copy_from_slice(&value.to_be_bytes());
        tcp
    }

    #[test]
    fn a_large_mss_is_lowered_with_the_checksum_right_at_even_and_odd_offsets() {
        for options in [
            &[2, 4, 5, 0xb4][..],
            &[1, 2, 4, 5, 0xb4],
            &[4, 2, 1, 2, 4, 5, 0xb4],
            &[3, 3, 7, 1, 2, 4, 5, 0xb4],
        ] {
            let mut tcp = syn(options);
            assert!(is_syn(&tcp, 0));
            clamp(&mut tcp, 0, 1300);
            assert_eq!(sum(&tcp), 0xffff, "{options:?}");
            assert!(tcp.windows(4).any(|w| w == [2, 4, 5, 0x14]), "{options:?}");
        }
    }

    #[test]
    fn a_small_or_missing_or_broken_mss_stays() {
        for options in [
            &[2, 4, 4, 0][..],
            &[],
            &[1, 1, 1],
            &[2, 3, 5, 5],
            &[7, 0, 0, 0],
            &[0, 2, 4, 5, 0xb4],
        ] {
            let mut tcp = syn(options);
            let before = tcp.clone();
            clamp(&mut tcp, 0, 1300);
            assert_eq!(tcp, before);
        }
        clamp(&mut [0; 5], 0, 1300);
        clamp(&mut [], 9, 1300);
    }

    #[test]
    fn limits_leave_room_for_headers() {
        assert_eq!(limit(MssClamp::ToMtu, 1400, true), Some(1360));
        assert_eq!(limit(MssClamp::ToMtu, 1400, false), Some(1340));
        assert_eq!(limit(MssClamp::Off, 1400, true), None);
        assert_eq!(limit(MssClamp::To(1200), 1400, true), Some(1200));
    }
}
