//! Nobody reads a record under another name, slot or key; keys are replaced without losing anything.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crypto::SeededRandom;
use proptest::prelude::*;

use super::*;

const OLD: &str = "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f";
const NEW: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn file(lines: &[&str]) -> ClusterKeys {
    ClusterKeys::parse(&Secret::from(lines.join("\n").into_bytes())).unwrap()
}

fn vault(slot: u8) -> Vault {
    Vault::create(slot, &mut SeededRandom::from_seed(7))
}

#[test]
fn a_record_opens_under_its_name_in_its_slot_alone() {
    let vault = vault(3);
    let blob = vault
        .seal("slot/003/sa/0300010000000001", b"keys of a session")
        .unwrap();
    assert_eq!(blob.len(), RECORD_OVERHEAD + 17);
    assert_eq!(Vault::key_of(&blob), Some(1));
    let text = vault.open("slot/003/sa/0300010000000001", &blob).unwrap();
    assert_eq!(text.expose(), b"keys of a session");
    // Another session, and the same one of another birth.
    for name in ["slot/003/sa/0300010000000002", "slot/003/sa/0300020000000001", ""] {
        assert_eq!(vault.open(name, &blob).unwrap_err(), VaultError::NotAuthentic);
    }
    // A slot with the same keys, if that could be.
    let mut other = Vault::create(4, &mut SeededRandom::from_seed(7));
    assert_eq!(
        other.open("slot/003/sa/0300010000000001", &blob).unwrap_err(),
        VaultError::NotAuthentic
    );
    other.rotate(&mut SeededRandom::from_seed(8)).unwrap();
    other.retire_old();
    assert_eq!(
        other.open("slot/003/sa/0300010000000001", &blob).unwrap_err(),
        VaultError::UnknownDataKey(1)
    );
    // Another slot's key of the same number.
    let foreign = Vault::create(3, &mut SeededRandom::from_seed(9));
    assert_eq!(
        foreign.open("slot/003/sa/0300010000000001", &blob).unwrap_err(),
        VaultError::NotAuthentic
    );
}

#[test]
fn every_changed_or_shortened_record_is_refused() {
    let vault = vault(0);
    let blob = vault.seal("n", b"text").unwrap();
    for bit in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = vault.open("n", &changed).unwrap_err();
        match bit / 8 {
            0 => assert!(matches!(error, VaultError::Version(_))),
            1..5 => assert!(matches!(error, VaultError::UnknownDataKey(_))),
            _ => assert_eq!(error, VaultError::NotAuthentic),
        }
    }
    for length in 0..blob.len() {
        let error = vault.open("n", &blob[..length]).unwrap_err();
        assert!(
            matches!(error, VaultError::TooShort | VaultError::NotAuthentic),
            "{length}: {error}"
        );
        if length < RECORD_OVERHEAD {
            assert_eq!(error, VaultError::TooShort, "{length}");
            assert_eq!(Vault::key_of(&blob[..length]), None);
        }
    }
    let longer = [blob.as_slice(), b"x"].concat();
    assert_eq!(vault.open("n", &longer).unwrap_err(), VaultError::NotAuthentic);
}

#[test]
fn two_owners_of_the_same_keys_never_seal_alike() {
    let keys = file(&[OLD]);
    let wrapped = vault(5).wrap(&keys).unwrap();
    let (a, b) = (
        Vault::unwrap(&keys, &wrapped, 5).unwrap(),
        Vault::unwrap(&keys, &wrapped, 5).unwrap(),
    );
    let salt = |vault: &Vault| vault.seal("n", b"").unwrap()[5..HEAD].to_vec();
    assert_eq!(salt(&a), salt(&a), "an owner keeps its salt");
    assert_ne!(salt(&a), salt(&b));
    assert!(b.open("n", &a.seal("n", b"").unwrap()).is_ok());
    assert_ne!(a.seal("n", b"x").unwrap(), a.seal("n", b"x").unwrap());
}

#[test]
fn rotation_keeps_the_old_readable_until_it_is_retired() {
    let keys = file(&[OLD]);
    let mut vault = vault(1);
    let before = vault.seal("n", b"before").unwrap();
    assert_eq!(vault.rotate(&mut SeededRandom::from_seed(8)).unwrap(), 2);
    assert_eq!(vault.newest(), 2);
    let after = vault.seal("n", b"after").unwrap();
    assert_eq!(
        (Vault::key_of(&before), Vault::key_of(&after)),
        (Some(1), Some(2))
    );
    // Also for the one that takes over in the middle.
    let mut taken = Vault::unwrap(&keys, &vault.wrap(&keys).unwrap(), 1).unwrap();
    for vault in [&vault, &taken] {
        assert_eq!(vault.open("n", &before).unwrap().expose(), b"before");
        assert_eq!(vault.open("n", &after).unwrap().expose(), b"after");
    }
    assert_eq!(taken.retire_old(), 1);
    let taken = Vault::unwrap(&keys, &taken.wrap(&keys).unwrap(), 1).unwrap();
    assert_eq!(
        taken.open("n", &before).unwrap_err(),
        VaultError::UnknownDataKey(1)
    );
    assert_eq!(taken.open("n", &after).unwrap().expose(), b"after");
    assert_eq!(taken.newest(), 2, "numbers do not come again");

    let mut random = SeededRandom::from_seed(9);
    for _ in 2..MAX_DATA_KEYS {
        vault.rotate(&mut random).unwrap();
    }
    assert_eq!(vault.rotate(&mut random).unwrap_err(), VaultError::TooManyKeys);
    assert!(Vault::unwrap(&keys, &vault.wrap(&keys).unwrap(), 1).is_ok());
}

#[test]
fn the_cluster_key_is_replaced_in_steps() {
    let (old, both, new) = (file(&[OLD]), file(&[NEW, OLD]), file(&[NEW]));
    let vault = vault(9);
    let record = vault.seal("n", b"text").unwrap();
    let root = Root::create(&mut SeededRandom::from_seed(1));
    let (wrapped, wrapped_root) = (vault.wrap(&old).unwrap(), root.wrap(&old).unwrap());
    assert!(old.is_current(&wrapped) && !both.is_current(&wrapped));
    let old_id = old.ids().next().unwrap();
    assert_eq!(
        Vault::unwrap(&new, &wrapped, 9).unwrap_err(),
        VaultError::UnknownClusterKey(old_id)
    );
    assert_eq!(
        Root::unwrap(&new, &wrapped_root).unwrap_err(),
        VaultError::UnknownClusterKey(old_id)
    );
    // Nodes with both keys read the old and wrap with the new.
    let again = Vault::unwrap(&both, &wrapped, 9).unwrap().wrap(&both).unwrap();
    let root_again = Root::unwrap(&both, &wrapped_root).unwrap().wrap(&both).unwrap();
    assert!(both.is_current(&again) && new.is_current(&again));
    assert!(Vault::unwrap(&old, &again, 9).is_err());
    let vault = Vault::unwrap(&new, &again, 9).unwrap();
    assert_eq!(vault.open("n", &record).unwrap().expose(), b"text");
    let root_again = Root::unwrap(&new, &root_again).unwrap();
    assert_eq!(
        root_again.derive("heartbeats").expose(),
        root.derive("heartbeats").expose(),
        "what is derived does not change with the cluster key"
    );
    assert_ne!(
        root.derive("heartbeats").expose(),
        root.derive("cookies").expose()
    );
}

#[test]
fn wrapped_keys_are_of_one_slot_and_unchanged() {
    let keys = file(&[OLD]);
    let wrapped = vault(2).wrap(&keys).unwrap();
    assert_eq!(
        Vault::unwrap(&keys, &wrapped, 3).unwrap_err(),
        VaultError::NotAuthentic
    );
    assert_eq!(
        Root::unwrap(&keys, &wrapped).unwrap_err(),
        VaultError::NotAuthentic
    );
    for bit in 0..wrapped.len() * 8 {
        let mut changed = wrapped.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Vault::unwrap(&keys, &changed, 2).is_err());
    }
    for length in 0..wrapped.len() {
        assert!(Vault::unwrap(&keys, &wrapped[..length], 2).is_err());
    }
}

#[test]
fn no_key_octets_can_be_seen() {
    let keys = file(&[NEW, OLD]);
    let mut vault = vault(1);
    vault.rotate(&mut SeededRandom::from_seed(8)).unwrap();
    let root = Root::create(&mut SeededRandom::from_seed(1));
    let record = b"canary: a session's key material";
    let seen = [
        vault.wrap(&keys).unwrap(),
        root.wrap(&keys).unwrap(),
        vault.seal("n", record).unwrap(),
        format!("{vault:?} {keys:?} {root:?}").into_bytes(),
        format!("{:?}", Vault::unwrap(&keys, b"x", 1).unwrap_err()).into_bytes(),
    ];
    let mut secrets: Vec<Vec<u8>> = vault.keys.iter().map(|key| key.key.expose().to_vec()).collect();
    secrets.push(root.0.expose().to_vec());
    secrets.push(record.to_vec());
    secrets.extend([OLD, NEW].map(|hex| hex.as_bytes().to_vec()));
    for (place, text) in seen.iter().enumerate() {
        for secret in &secrets {
            // Not even eight octets in a row.
            for piece in secret.windows(8) {
                assert!(!text.windows(8).any(|window| window == piece), "place {place}");
            }
        }
    }
}

#[test]
fn key_files_are_read_strictly() {
    let keys = file(&[
        "# the second one",
        &format!("  {} # since May", NEW.to_uppercase()),
        "",
        OLD,
        "",
    ]);
    assert_eq!(keys.ids().count(), 2);
    assert_eq!(keys.ids().next(), file(&[NEW]).ids().next());
    let error =
        |lines: &[&str]| ClusterKeys::parse(&Secret::from(lines.join("\n").into_bytes())).unwrap_err();
    assert_eq!(error(&[]), KeyFileError::Empty);
    assert_eq!(error(&["# nothing"]), KeyFileError::Empty);
    assert_eq!(error(&[OLD, "00112233"]), KeyFileError::Line(2));
    assert_eq!(error(&[&OLD.replace('f', "g")]), KeyFileError::Line(1));
    assert_eq!(error(&[&"0".repeat(64)]), KeyFileError::Weak(1));
    assert_eq!(error(&[OLD, NEW, OLD]), KeyFileError::Repeated(3));
    let many: Vec<String> = (0..=MAX_CLUSTER_KEYS)
        .map(|n| OLD.replace("00112233", &format!("{n:08x}")))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(error(&many), KeyFileError::TooMany);
    let text = KeyFileError::Line(3).to_string();
    assert!(text.contains("line 3") && !text.contains(OLD));
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(slot in 0..=127_u8, name in "[a-z0-9/]{0,40}", text in prop::collection::vec(any::<u8>(), 0..300)) {
        let vault = vault(slot);
        let blob = vault.seal(&name, &text).unwrap();
        let opened = vault.open(&name, &blob).unwrap();
        prop_assert_eq!(opened.expose(), text.as_slice());
    }

    #[test]
    fn anything_else_is_an_error(blob in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(vault(0).open("n", &blob).is_err());
        let keys = file(&[OLD]);
        prop_assert!(Vault::unwrap(&keys, &blob, 0).is_err());
        prop_assert!(Root::unwrap(&keys, &blob).is_err());
    }
}
