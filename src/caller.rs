//! Who calls: what stands for the credentials, kept only as hashes, and whether
//! the provider is known to accept them.

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::dialect::Dialect;
use crate::event::RequestHead;
use crate::metadata;
use crate::plan::{Plan, Scope, Source};

/// The headers that carry a provider's credentials.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Who makes a call, as far as caching and attribution go.
#[derive(Debug)]
pub(crate) struct Caller {
    /// A credential, attribution or encoding header came more than once: who
    /// calls depends on who reads.
    pub(crate) ambiguous: bool,
    /// A trusted source gave a `user`.
    pub(crate) has_user: bool,
    /// `metadata` of callouts, JSON.
    pub(crate) metadata: Vec<u8>,
    /// What is proven when the provider accepts this call, where proofs are asked for.
    pub(crate) proof: Option<ProofKey>,
}

impl Caller {
    pub(crate) fn new(plan: &Plan, dialect: Dialect, head: RequestHead<'_>) -> Self {
        let headers = head.headers;
        let upstream = upstream(head);
        let attribution = plan.trusted.iter().filter_map(|trusted| match &trusted.source {
            Source::Header(name) => Some(&**name),
            Source::Property(_) => None,
        });
        let ambiguous = CREDENTIALS
            .into_iter()
            .chain(attribution)
            .chain(["content-encoding", "accept-encoding"])
            .any(|name| headers.repeats(name));
        let trusted = if ambiguous { Vec::new() } else { metadata::trusted(plan, head) };

        let named = match &plan.scope {
            Scope::Attribution(name) if trusted.iter().any(|(other, _)| other == name) => {
                let mut hash = Sha256::new_with_prefix(&upstream);
                for (_, value) in trusted.iter().filter(|(other, _)| other == name) {
                    field(&mut hash, name, value.as_bytes());
                }
                Some(hash.finalize().into())
            }
            _ => None,
        };
        // A caller without the attribution shares with nobody.
        let is_scope = plan.scope != Scope::Shared && named.is_none();
        let known = (is_scope || plan.proves()).then(|| {
            let mut hash = Sha256::new_with_prefix(&upstream);
            credentials(&mut hash, head);
            hash.finalize().into()
        });
        let scope: Option<[u8; 32]> = if is_scope { known } else { named };
        let scope = scope.map(|digest| hex_string(digest.iter().take(16)));
        let trusted = (!ambiguous).then_some(&*trusted);
        Self {
            ambiguous,
            has_user: trusted.is_some_and(|all| all.iter().any(|(name, _)| *name == "user")),
            metadata: metadata::metadata(plan, headers, trusted, scope.as_deref()),
            proof: known.filter(|_| plan.proves()).map(|digest| ProofKey::new(digest, dialect)),
        }
    }
}

/// What stands for the provider: the host's name for it. A host that has none yet may choose by
/// anything that this call was sent to.
fn upstream(head: RequestHead<'_>) -> Cow<'_, [u8]> {
    let named = head.upstream.map(Cow::Borrowed);
    named.unwrap_or_else(|| {
        let part = |name| head.headers.get(name).unwrap_or_default();
        let path = part(":path").split(|&byte| byte == b'?').next().unwrap_or_default();
        Cow::Owned([part(":authority"), part("host"), path].join(&b' '))
    })
}

fn credentials(hash: &mut Sha256, head: RequestHead<'_>) {
    for name in CREDENTIALS {
        for value in head.headers.all(name) {
            field(hash, name, value);
        }
    }
}

fn field(hash: &mut Sha256, name: &str, value: &[u8]) {
    hash.update(name);
    hash.update([0]);
    hash.update(value);
    hash.update(b"\n");
}

/// Bytes in hexadecimal, as a JSON string.
fn hex_string<'b>(bytes: impl Iterator<Item = &'b u8>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).map_or('0', |&digit| digit.into());
    let mut out = String::with_capacity(64);
    out.push('"');
    for byte in bytes {
        out.push(digit(byte.wrapping_shr(4)));
        out.push(digit(byte & 0xf));
    }
    out.push('"');
    out
}

/// What a provider's 2xx proves: SHA-256 over upstream and credentials, and the endpoint's number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProofKey([u8; 33]);

impl std::fmt::Debug for ProofKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ProofKey")
    }
}

impl ProofKey {
    fn new(digest: [u8; 32], dialect: Dialect) -> Self {
        let mut key = [dialect as u8; 33];
        for (to, from) in key.iter_mut().zip(digest) {
            *to = from;
        }
        Self(key)
    }

    /// The shared data's key that this proof is kept under: one of 4096 slots,
    /// because shared data cannot forget. A newer proof takes over an occupied slot.
    pub(crate) fn slot(&self) -> String {
        let [a, b, .., endpoint] = self.0;
        format!("optimizer.proof.{:03x}", u16::from_be_bytes([a, b ^ endpoint]) & 0xfff)
    }

    /// What the slot holds once the provider accepted the credentials at `now`.
    pub(crate) fn proven_at(&self, now: Duration) -> Vec<u8> {
        let mut value = self.0.to_vec();
        value.extend_from_slice(&now.as_nanos().to_be_bytes());
        value
    }

    /// Whether a slot's value is about these credentials.
    pub(crate) fn is_in(&self, value: &[u8]) -> bool {
        value.starts_with(&self.0)
    }

    /// Whether a slot's value proves these credentials at `now`.
    pub(crate) fn is_proven(&self, value: &[u8], now: Duration, lasts: Duration) -> bool {
        let proven_at = value
            .strip_prefix(&self.0)
            .and_then(|nanoseconds| nanoseconds.try_into().ok())
            .map(u128::from_be_bytes);
        proven_at.is_some_and(|at| now.as_nanos().saturating_sub(at) < lasts.as_nanos())
    }
}

/// Proofs that this VM stored lately: a provider's yes is not stored anew with each answer.
#[derive(Debug)]
pub(crate) struct Stored(Vec<Option<(ProofKey, Duration)>>);

impl Default for Stored {
    fn default() -> Self {
        Self(vec![None; 64])
    }
}

impl Stored {
    fn place(proof: &ProofKey) -> usize {
        let [.., last_of_digest, _] = proof.0;
        usize::from(last_of_digest & 63)
    }

    /// Whether `proof` was stored for less than a sixteenth of the time that it `lasts`.
    pub(crate) fn has(&self, proof: &ProofKey, now: Duration, lasts: Duration) -> bool {
        let stored = self.0.get(Self::place(proof)).and_then(Option::as_ref);
        stored.is_some_and(|(other, at)| {
            other == proof && now.checked_sub(*at).is_some_and(|age| age.saturating_mul(16) < lasts)
        })
    }

    /// Remembers that `proof` was stored `at` this time, or, without one, that it is void.
    pub(crate) fn set(&mut self, proof: ProofKey, at: Option<Duration>) {
        if let Some(stored) = self.0.get_mut(Self::place(&proof)) {
            *stored = at.map(|at| (proof, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::headers::Headers;
    use crate::host::Host;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn caller(extra: &str, upstream: &str, fields: &[(&str, &str)]) -> Caller {
        let json = format!(
            r#"{{"optimizer":{{"upstream":"o"}},"attribution":{{"user":{{"header":"x-user"}}}}{extra}}}"#
        );
        let config = Config::parse(json.as_bytes()).unwrap();
        let plan = Plan::compile(config, Host::Envoy, |_| None).unwrap();
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let head = RequestHead {
            headers: Headers::new(&fields),
            truncated: false,
            upstream: Some(upstream.as_bytes()),
            properties: &[],
            end_of_stream: false,
        };
        Caller::new(&plan, Dialect::OpenAiChat, head)
    }

    fn metadata(caller: &Caller) -> &str {
        std::str::from_utf8(&caller.metadata).unwrap()
    }

    #[test]
    fn the_scope_is_the_documented_hash() {
        let caller = caller("", "openai", &[("Authorization", "Bearer k"), ("api-key", "z")]);
        let digest = Sha256::digest(b"openaiauthorization\0Bearer k\napi-key\0z\n");
        assert_eq!(
            metadata(&caller),
            format!(r#"{{"cacheScope":{}}}"#, hex_string(digest.iter().take(16)))
        );
    }

    #[test]
    fn every_credential_upstream_and_endpoint_is_a_caller_of_its_own() {
        let base = caller("", "a", &[("authorization", "k")]);
        for (upstream, fields) in [
            ("b", vec![("authorization", "k")]),
            ("a", vec![("authorization", "l")]),
            ("a", vec![("x-api-key", "k")]),
            ("a", vec![("authorization", "k"), ("x-api-key", "k")]),
            ("a", vec![]),
        ] {
            let other = caller("", upstream, &fields);
            assert_ne!(base.proof, other.proof, "{upstream} {fields:?}");
            assert_ne!(base.metadata, other.metadata, "{upstream} {fields:?}");
        }
        let again = caller("", "a", &[("AUTHORIZATION", "k"), ("x-other", "1")]);
        assert_eq!((base.proof, base.metadata), (again.proof, again.metadata));
    }

    #[test]
    fn without_a_name_for_the_provider_a_proof_holds_for_one_address() {
        let json = r#"{"optimizer":{"upstream":"o:1"}}"#;
        let plan = Plan::compile(Config::parse(json.as_bytes()).unwrap(), Host::Kong, |_| None);
        let plan = plan.unwrap();
        let at = |authority: &str, host: &str, path: &str| {
            let fields = [(":authority", authority), ("host", host), (":path", path)];
            let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let head = RequestHead {
                headers: Headers::new(&fields),
                truncated: false,
                upstream: None,
                properties: &[],
                end_of_stream: false,
            };
            Caller::new(&plan, Dialect::OpenAiChat, head).proof
        };
        let base = at("a", "h", "/p");
        assert_eq!(base, at("a", "h", "/p?q=1"));
        for other in [at("b", "h", "/p"), at("a", "i", "/p"), at("a", "h", "/q/p")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn scopes_by_configuration() {
        let fields = |key| [("authorization", key), ("x-user", "ann")];
        let shared = r#","cache":{"scope":"shared"}"#;
        assert_eq!(metadata(&caller(shared, "a", &fields("1"))), r#"{"user":"ann"}"#);
        let user = r#","cache":{"scope":"user"}"#;
        let (one, two) = (caller(user, "a", &fields("1")), caller(user, "a", &fields("2")));
        assert_eq!(one.metadata, two.metadata, "rotating tokens share");
        assert_ne!(one.proof, two.proof, "but prove themselves one by one");
        let anonymous = |key| caller(user, "a", &[("authorization", key)]);
        assert_ne!(anonymous("1").metadata, anonymous("2").metadata, "no user: nothing is shared");
    }

    #[test]
    fn who_comes_twice_is_nobody() {
        for name in ["authorization", "x-api-key", "api-key", "x-user", "accept-encoding"] {
            let caller = caller("", "a", &[(name, "1"), (name, "2"), ("x-anyray-metadata", "{}")]);
            assert!(caller.ambiguous && !caller.has_user, "{name}");
            assert!(metadata(&caller).starts_with(r#"{"cacheScope""#), "{name}");
        }
    }

    #[test]
    fn a_proof_lasts_its_time_and_holds_for_its_key_alone() {
        let key = caller("", "a", &[]).proof.unwrap();
        let other = caller("", "b", &[]).proof.unwrap();
        let (at, lasts) = (Duration::from_millis(1_000_900), Duration::from_secs(300));
        let value = key.proven_at(at);
        assert!(key.is_in(&value) && !other.is_in(&value));
        assert!(key.is_proven(&value, at + Duration::from_millis(299_999), lasts));
        assert!(!key.is_proven(&value, at + Duration::from_secs(300), lasts));
        assert!(!other.is_proven(&value, at, lasts));
        for bad in [&b""[..], &value[..32], &[&value[..], b"x"].concat()] {
            assert!(!key.is_proven(bad, at, lasts));
        }
        assert!(key.slot().starts_with("optimizer.proof."));
    }
}
