//! Enumerations of the API as lower-case words, for JSON, YAML and tables.
//!
//! `AUTH_METHOD_PSK` is written `"psk"`; the unspecified value is the empty word.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// An enumeration of the API whose values have words.
pub trait Word: TryFrom<i32> + Into<i32> + Sized {
    /// Prefix that all names of the enumeration share, with its final `_`.
    const PREFIX: &'static str;
    /// Name as the proto has it.
    fn proto_name(&self) -> &'static str;
    /// From the name as the proto has it.
    fn from_proto_name(name: &str) -> Option<Self>;
    /// Every word but the unspecified one.
    fn words() -> Vec<String> {
        (1..64)
            .map_while(|n| Self::try_from(n).ok())
            .map(|value| word(&value))
            .collect()
    }
}

/// The word of a value; empty for the unspecified one.
pub fn word<W: Word>(value: &W) -> String {
    let name = value.proto_name();
    let short = name.strip_prefix(W::PREFIX).unwrap_or(name).to_ascii_lowercase();
    if short == "unspecified" {
        String::new()
    } else {
        short
    }
}

/// The word of a number on the wire; a number that this version does not know is written as digits.
pub fn word_of<W: Word>(number: i32) -> String {
    W::try_from(number).map_or_else(|_| number.to_string(), |value| word(&value))
}

/// The value of a word. Case does not matter, nor `-` against `_`.
pub fn parse<W: Word>(text: &str) -> Option<W> {
    let upper = text.trim().to_ascii_uppercase().replace('-', "_");
    let upper = if upper.is_empty() {
        "UNSPECIFIED".to_owned()
    } else {
        upper
    };
    W::from_proto_name(&upper).or_else(|| W::from_proto_name(&format!("{}{upper}", W::PREFIX)))
}

macro_rules! words {
    ($($module:ident: $kind:ident = $prefix:literal;)*) => {$(
        impl Word for crate::v1::$kind {
            const PREFIX: &'static str = $prefix;
            fn proto_name(&self) -> &'static str { self.as_str_name() }
            fn from_proto_name(name: &str) -> Option<Self> { Self::from_str_name(name) }
        }
        #[doc = concat!("serde form of `", stringify!($kind), "` fields.")]
        pub mod $module {
            use super::*;
            /// Writes the word.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&word_of::<crate::v1::$kind>(*value))
            }
            /// Reads a word.
            ///
            /// # Errors
            /// When the word is not one of the enumeration's; the message lists those.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
                let text = String::deserialize(deserializer)?;
                parse::<crate::v1::$kind>(&text).map(Into::into).ok_or_else(|| D::Error::custom(format!(
                    "\"{text}\" is not one of: {}", <crate::v1::$kind as Word>::words().join(", "))))
            }
        }
    )*};
}

words! {
    user_limit_policy: UserLimitPolicy = "USER_LIMIT_POLICY_";
    auth_method: AuthMethod = "AUTH_METHOD_";
    rekey_policy: RekeyPolicy = "REKEY_POLICY_";
    df_policy: DfPolicy = "DF_POLICY_";
    credential_kind: CredentialKind = "CREDENTIAL_KIND_";
    session_event_kind: SessionEventKind = "SESSION_EVENT_KIND_";
    attempt_outcome: AttemptOutcome = "ATTEMPT_OUTCOME_";
    change_action: ChangeAction = "CHANGE_ACTION_";
    cluster_node_state: ClusterNodeState = "CLUSTER_NODE_STATE_";
    cluster_slot_state: ClusterSlotState = "CLUSTER_SLOT_STATE_";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::v1::{AuthMethod, CredentialKind};

    #[test]
    fn words_round_trip() {
        assert_eq!(word(&AuthMethod::Psk), "psk");
        assert_eq!(word(&AuthMethod::Unspecified), "");
        assert_eq!(parse::<AuthMethod>("PSK"), Some(AuthMethod::Psk));
        assert_eq!(parse::<AuthMethod>(""), Some(AuthMethod::Unspecified));
        assert_eq!(
            parse::<CredentialKind>("ca-certificate"),
            Some(CredentialKind::CaCertificate)
        );
        assert_eq!(parse::<AuthMethod>("eap"), None);
        assert_eq!(CredentialKind::words(), ["psk", "ca_certificate", "private_key"]);
        assert_eq!(word_of::<AuthMethod>(99), "99");
    }

    #[test]
    fn resources_have_strict_serde_forms() {
        let connection: crate::v1::Connection =
            serde_json::from_str(r#"{"tenant":"a","name":"b","auth":"psk","dpd_secs":5}"#).unwrap();
        assert_eq!(connection.auth(), AuthMethod::Psk);
        let json = serde_json::to_value(&connection).unwrap();
        assert_eq!(json["auth"], "psk");
        let error = serde_json::from_str::<crate::v1::Connection>(r#"{"auht":"psk"}"#).unwrap_err();
        assert!(error.to_string().contains("auht"), "{error}");
        let error = serde_json::from_str::<crate::v1::Connection>(r#"{"auth":"eap"}"#).unwrap_err();
        assert!(error.to_string().contains("psk, certificate"), "{error}");
    }
}
