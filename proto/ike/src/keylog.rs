//! Lines for Wireshark's tables `ikev2_decryption_table` and `esp_sa`, with the algorithm names of Wireshark 4.0, so that
//! a capture can be read. Pure functions; the state machine calls them only with `Context::key_log`.

use std::net::IpAddr;

use crypto::{Cipher, Integrity, Secret, Suite};

use crate::keys::IkeKeys;
use crate::types::{ChildKeys, ChildSa, IkeSuite, KeyLog, KeyLogTable};
use crate::wire::Spi;

/// `SPIi,SPIr,SK_ei,SK_er,"cipher",SK_ai,SK_ar,"integrity"`: a line of `ikev2_decryption_table`.
///
/// `None` for suites that Wireshark 4.0 cannot decrypt (ChaCha20-Poly1305).
#[must_use]
pub fn ike_line(spi_i: Spi, spi_r: Spi, suite: IkeSuite, keys: &IkeKeys) -> Option<KeyLog> {
    let cipher = match suite.suite.cipher {
        Cipher::AesGcm16 { key_bits } => format!("AES-GCM-{key_bits} with 16 octet ICV [RFC5282]"),
        Cipher::AesCbc { key_bits } => format!("AES-CBC-{key_bits} [RFC3602]"),
        Cipher::AesCtr { key_bits } => format!("AES-CTR-{key_bits} [RFC5930]"),
        Cipher::ChaCha20Poly1305 => return None,
    };
    let integrity = match suite.suite.integrity {
        None => "NONE [RFC4306]",
        Some(Integrity::HmacSha1_96) => "HMAC_SHA1_96 [RFC2404]",
        Some(Integrity::HmacSha256_128) => "HMAC_SHA2_256_128 [RFC4868]",
        Some(Integrity::HmacSha384_192) => "HMAC_SHA2_384_192 [RFC4868]",
        Some(Integrity::HmacSha512_256) => "HMAC_SHA2_512_256 [RFC4868]",
    };
    let (ei, er, ai, ar) = (
        hex(&keys.sk_ei),
        hex(&keys.sk_er),
        hex(&keys.sk_ai),
        hex(&keys.sk_ar),
    );
    let line = format!("{spi_i},{spi_r},{ei},{er},\"{cipher}\",{ai},{ar},\"{integrity}\"");
    Some(KeyLog {
        table: KeyLogTable::Ike,
        line,
    })
}

/// `"IPv4","source","destination","SPI","cipher","key","integrity","key"`: two lines of `esp_sa`, inbound first.
///
/// Counter-mode keys carry their salt behind them, as Wireshark wants it. Empty for suites that Wireshark 4.0 cannot
/// decrypt (ChaCha20-Poly1305): a line that it does not know makes it refuse the whole table.
#[must_use]
pub fn esp_lines(child: &ChildSa) -> Vec<KeyLog> {
    let (local, remote) = (child.local.ip(), child.remote.ip());
    let inbound = esp_line(remote, local, child.spi_in, child.suite, &child.keys_in);
    let outbound = esp_line(local, remote, child.spi_out, child.suite, &child.keys_out);
    inbound.into_iter().chain(outbound).collect()
}

fn esp_line(from: IpAddr, to: IpAddr, spi: u32, suite: Suite, keys: &ChildKeys) -> Option<KeyLog> {
    let family = if from.is_ipv4() { "IPv4" } else { "IPv6" };
    let cipher = match suite.cipher {
        Cipher::AesGcm16 { .. } => "AES-GCM with 16 octet ICV [RFC4106]",
        Cipher::AesCbc { .. } => "AES-CBC [RFC3602]",
        Cipher::AesCtr { .. } => "AES-CTR [RFC3686]",
        Cipher::ChaCha20Poly1305 => return None,
    };
    let integrity = match suite.integrity {
        None => "NULL",
        Some(Integrity::HmacSha1_96) => "HMAC-SHA-1-96 [RFC2404]",
        Some(Integrity::HmacSha256_128) => "HMAC-SHA-256-128 [RFC4868]",
        Some(Integrity::HmacSha384_192) => "HMAC-SHA-384-192 [RFC4868]",
        Some(Integrity::HmacSha512_256) => "HMAC-SHA-512-256 [RFC4868]",
    };
    let integ = if keys.integ.is_empty() {
        String::new()
    } else {
        format!("0x{}", hex(&keys.integ))
    };
    let enc = hex(&keys.enc);
    let line = format!(
        "\"{family}\",\"{from}\",\"{to}\",\"0x{spi:08x}\",\"{cipher}\",\"0x{enc}\",\"{integrity}\",\"{integ}\""
    );
    Some(KeyLog {
        table: KeyLogTable::Esp,
        line,
    })
}

fn hex(key: &Secret) -> String {
    key.expose().iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::keys;
    use crypto::{Group, Prf};

    #[test]
    fn esp_lines_are_in_and_out() {
        let keys = |octet| ChildKeys {
            enc: Secret::from(vec![octet; 20]),
            integ: Secret::default(),
        };
        let child = ChildSa {
            protocol: crate::types::SecurityProtocol::Esp,
            mode: crate::types::Mode::Tunnel,
            suite: Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap(),
            esn: false,
            spi_in: 0x1000,
            spi_out: 0xc0ffee,
            keys_in: keys(1),
            keys_out: keys(2),
            ts_local: Vec::new(),
            ts_remote: Vec::new(),
            local: "192.0.2.1:4500".parse().unwrap(),
            remote: "198.51.100.7:4500".parse().unwrap(),
            encap: true,
            activate: crate::types::Activate::Now,
            lifetime: crate::types::Lifetime::default(),
            replay_window: 64,
            initiator: false,
            resource: crate::types::Resource::None,
        };
        let lines: Vec<String> = esp_lines(&child).into_iter().map(|log| log.line).collect();
        let name = "AES-GCM with 16 octet ICV [RFC4106]";
        let inbound = format!(
            "\"IPv4\",\"198.51.100.7\",\"192.0.2.1\",\"0x00001000\",\"{name}\",\"0x{}\",\"NULL\",\"\"",
            "01".repeat(20)
        );
        assert_eq!(lines[0], inbound);
        assert!(lines[1].starts_with("\"IPv4\",\"192.0.2.1\",\"198.51.100.7\",\"0x00c0ffee\""));
        let chacha = ChildSa {
            suite: Suite::new(Cipher::ChaCha20Poly1305, None).unwrap(),
            ..child
        };
        assert!(esp_lines(&chacha).is_empty());
    }

    #[test]
    fn an_ike_line_has_eight_fields_in_the_order_of_the_table() {
        let suite = IkeSuite {
            suite: Suite::new(Cipher::AesCbc { key_bits: 128 }, Some(Integrity::HmacSha256_128)).unwrap(),
            prf: Prf::HmacSha256,
            group: Group::Ecp256,
        };
        let seed = keys::skeyseed(suite.prf, b"i", b"r", &Secret::from(vec![1]));
        let keys = IkeKeys::derive(&seed, suite, b"i", b"r", Spi(1), Spi(2));
        let line = ike_line(Spi(1), Spi(2), suite, &keys).unwrap().line;
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), 8);
        assert_eq!((fields[0], fields[1]), ("0000000000000001", "0000000000000002"));
        assert_eq!(fields[2], hex(&keys.sk_ei));
        assert_eq!(
            (fields[4], fields[7]),
            ("\"AES-CBC-128 [RFC3602]\"", "\"HMAC_SHA2_256_128 [RFC4868]\"")
        );
    }
}
