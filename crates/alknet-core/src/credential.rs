//! Outbound credentials as registrations hold them: declared by name, handed
//! over by the assembly, read by the one operation that declared them.

use crate::{
    error::{CallError, ErrorCode},
    secret::Secret,
};
use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{fmt, sync::Arc};

/// Which secret: whose door it opens, and which of the accounts there.
///
/// A provider is 1 to 64 bytes of `a`-`z`, `0`-`9`, `.`, `_` and `-`; an
/// account is 1 to 128 bytes of these, `A`-`Z`, `@` and `+`. Both begin with a
/// letter or a digit. Written `provider/account`.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct CredentialName {
    provider: String,
    account: String,
}

/// Why a credential cannot have this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialNameError {
    /// The provider has other characters, or is empty or too long.
    #[error(
        "provider `{0}` is not 1 to 64 of `a`-`z`, `0`-`9`, `.`, `_`, `-`, beginning with a letter or digit"
    )]
    Provider(String),
    /// The account has other characters, or is empty or too long.
    #[error(
        "account `{0}` is not 1 to 128 of `A`-`Z`, `a`-`z`, `0`-`9`, `.`, `_`, `@`, `+`, `-`, beginning with a letter or digit"
    )]
    Account(String),
    /// There is no slash.
    #[error("`{0}` is not written as `provider/account`")]
    NoSlash(String),
}

impl CredentialName {
    /// Longest name of a provider, in bytes.
    pub const PROVIDER_BYTES_MAX: usize = 64;
    /// Longest name of an account, in bytes.
    pub const ACCOUNT_BYTES_MAX: usize = 128;

    /// A name of these two parts.
    ///
    /// # Errors
    ///
    /// [`CredentialNameError`] that says which part is wrong.
    pub fn new(provider: &str, account: &str) -> Result<Self, CredentialNameError> {
        let common =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let fits = |text: &str, most: usize, more: &dyn Fn(u8) -> bool| {
            let begins = text
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric());
            begins && text.len() <= most && text.bytes().all(|byte| common(byte) || more(byte))
        };
        if !fits(provider, Self::PROVIDER_BYTES_MAX, &|_| false) {
            return Err(CredentialNameError::Provider(shown(provider)));
        }
        let in_account = |byte: u8| byte.is_ascii_uppercase() || b"@+".contains(&byte);
        if !fits(account, Self::ACCOUNT_BYTES_MAX, &in_account) {
            return Err(CredentialNameError::Account(shown(account)));
        }
        Ok(Self {
            provider: provider.into(),
            account: account.into(),
        })
    }

    /// Parses `provider/account`.
    ///
    /// # Errors
    ///
    /// [`CredentialNameError`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, CredentialNameError> {
        let parts = text.split_once('/');
        let (provider, account) = parts.ok_or_else(|| CredentialNameError::NoSlash(shown(text)))?;
        Self::new(provider, account)
    }

    /// Whose door it opens.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Which of the accounts there.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }
}

/// As much of a name as is worth repeating: whoever mixed up name and secret
/// does not find the secret in an error.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 8;
    let mut shown: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(CHARS_MAX)
        .collect();
    if text.chars().count() > CHARS_MAX {
        shown.push('…');
    }
    shown
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.account)
    }
}

/// What the assembly knows of a credential.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum CredentialState {
    /// Nobody stored it yet.
    #[default]
    Missing,
    /// It is stored, and the vault that opens it is locked.
    Locked,
    /// It is stored, and does not open: damaged, moved, or another vault's.
    Unreadable,
    /// Here it is.
    Open(Arc<Secret>),
}

/// The place of one credential in one registration.
///
/// The assembly fills it; only the handler of that registration reads it. The
/// secret is wiped when the registration is dropped, when another state takes
/// its place, and no call that holds it runs any more.
pub struct CredentialSlot {
    name: CredentialName,
    state: ArcSwap<CredentialState>,
}

impl CredentialSlot {
    pub(crate) fn new(name: CredentialName) -> Self {
        Self {
            name,
            state: ArcSwap::default(),
        }
    }

    /// Which credential belongs here.
    #[must_use]
    pub fn name(&self) -> &CredentialName {
        &self.name
    }

    /// Puts a new state here. Calls that run keep what they hold.
    pub fn hand(&self, state: CredentialState) {
        self.state.store(Arc::new(state));
    }

    /// Whether a secret is here.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        matches!(**self.state.load(), CredentialState::Open(_))
    }

    /// The secret, or why a call cannot have it.
    pub(crate) fn secret(&self, node: &str) -> Result<Arc<Secret>, CallError> {
        let Self { name, .. } = self;
        let (reason, message) = match &**self.state.load() {
            CredentialState::Open(secret) => return Ok(secret.clone()),
            CredentialState::Missing => (
                "missing",
                format!(
                    "credential `{name}` is missing on `{node}`; there: alknet credentials put {} {}",
                    name.provider, name.account
                ),
            ),
            CredentialState::Locked => (
                "locked",
                format!(
                    "the vault of `{node}` is locked, and credential `{name}` in it; there: alknet vault unlock"
                ),
            ),
            CredentialState::Unreadable => (
                "unreadable",
                format!(
                    "credential `{name}` on `{node}` does not open; there: alknet credentials put {} {}",
                    name.provider, name.account
                ),
            ),
        };
        Err(CallError::new(ErrorCode::Unavailable, message)
            .with_retryable(false)
            .with_details(json!({ "credential": name.to_string(), "reason": reason })))
    }
}

impl fmt::Debug for CredentialSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSlot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_have_two_parts_of_harmless_characters() {
        for good in [
            "github/ada",
            "smtp.example.org/Ada+lists@example.org",
            "a/b",
        ] {
            let name = CredentialName::parse(good).unwrap();
            assert_eq!(name.to_string(), good);
        }
        let long = "a".repeat(65);
        for bad in [
            "",
            "github",
            "/ada",
            "github/",
            "GitHub/ada",
            "git hub/ada",
            "github/a/b",
            "-x/ada",
            "github/-a",
            "github/a\nb",
            "gïthub/ada",
            &format!("{long}/a"),
            &format!("a/{}", "a".repeat(129)),
        ] {
            assert!(CredentialName::parse(bad).is_err(), "{bad}");
        }
        assert!(CredentialName::parse(&format!("{}/{}", &long[1..], "a".repeat(128))).is_ok());
    }

    #[test]
    fn a_secret_in_the_place_of_a_name_is_not_repeated() {
        let error = CredentialName::parse("GHP_canary_canary_canary/ada").unwrap_err();
        assert!(!error.to_string().contains("canary_canary"), "{error}");
    }

    #[test]
    fn a_slot_says_why_it_is_empty_and_lets_go_of_what_it_held() {
        let slot = CredentialSlot::new(CredentialName::parse("github/ada").unwrap());
        let why = |slot: &CredentialSlot| {
            let error = slot.secret("home").unwrap_err();
            assert!(error.is(ErrorCode::Unavailable));
            error.details.unwrap()["reason"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(why(&slot), "missing");
        let secret = Arc::new(Secret::new("s3cr3t"));
        let held = Arc::downgrade(&secret);
        slot.hand(CredentialState::Open(secret));
        assert!(slot.is_filled() && !format!("{slot:?}").contains("s3cr3t"));
        let call = slot.secret("home").unwrap();
        slot.hand(CredentialState::Locked);
        assert_eq!(why(&slot), "locked");
        // A call that runs goes on with what it was given.
        assert_eq!(call.expose(), b"s3cr3t");
        drop(call);
        assert!(held.upgrade().is_none());
        slot.hand(CredentialState::Unreadable);
        assert_eq!(why(&slot), "unreadable");
    }
}
