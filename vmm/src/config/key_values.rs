//! Key-value lists of the command line: `path=root.img,readonly=on`.
//!
//! A list names each key once; unknown keys and repeated keys are errors that list what is known.

/// Why a list could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// A part without `=`.
    #[error("'{part}' is not KEY=VALUE; write {first_key}={part}")]
    NotKeyValue {
        /// What was typed.
        part: String,
        /// The key that it most likely was meant for.
        first_key: &'static str,
    },
    /// A key that this list does not have.
    #[error("unknown key '{key}'; known: {known}")]
    UnknownKey {
        /// What was typed.
        key: String,
        /// The keys of this list.
        known: String,
    },
    /// The same key twice.
    #[error("key '{0}' is given twice")]
    Repeated(String),
    /// A key that this list cannot do without.
    #[error("key '{0}' is missing")]
    Missing(&'static str),
    /// A value that its key does not take.
    #[error("{key}={value}: {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What was typed behind it.
        value: String,
        /// What it takes.
        reason: String,
    },
}

/// One list, taken apart.
#[derive(Debug)]
pub(super) struct KeyValues<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> KeyValues<'a> {
    /// Takes `text` apart; `keys` are all that may occur, the first is the one that must.
    pub(super) fn parse(text: &'a str, keys: &[&'static str]) -> Result<Self, KeyValueError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| KeyValueError::NotKeyValue { part: part.into(), first_key: keys[0] })?;
            if !keys.contains(&key) {
                return Err(KeyValueError::UnknownKey { key: key.into(), known: keys.join(", ") });
            }
            if pairs.iter().any(|(seen, _)| *seen == key) {
                return Err(KeyValueError::Repeated(key.into()));
            }
            pairs.push((key, value));
        }
        Ok(KeyValues { pairs })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// The value of a key that must be there and must not be empty.
    pub(super) fn need(&self, key: &'static str) -> Result<&'a str, KeyValueError> {
        self.get(key).filter(|value| !value.is_empty()).ok_or(KeyValueError::Missing(key))
    }

    /// `on` or `off`; absent is `off`.
    pub(super) fn switch(&self, key: &'static str) -> Result<bool, KeyValueError> {
        match self.get(key) {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(value) => Err(KeyValueError::BadValue { key, value: value.into(), reason: "use on or off".into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = ["path", "readonly"];

    #[test]
    fn parse_known_keys_gives_values() {
        let pairs = KeyValues::parse("path=a=b,readonly=on", &KEYS).expect("well formed");
        assert_eq!(pairs.need("path"), Ok("a=b"));
        assert_eq!(pairs.switch("readonly"), Ok(true));
    }

    #[test]
    fn parse_bare_path_says_how_to_write_it() {
        let error = KeyValues::parse("root.img", &KEYS).expect_err("no key");
        assert_eq!(error.to_string(), "'root.img' is not KEY=VALUE; write path=root.img");
    }

    #[test]
    fn parse_unknown_or_repeated_key_is_refused() {
        let error = KeyValues::parse("path=a,ro=on", &KEYS).expect_err("ro is unknown");
        assert_eq!(error.to_string(), "unknown key 'ro'; known: path, readonly");
        let error = KeyValues::parse("path=a,path=b", &KEYS).expect_err("twice");
        assert_eq!(error, KeyValueError::Repeated("path".into()));
    }

    #[test]
    fn need_absent_or_empty_key_is_missing() {
        for text in ["readonly=on", "path="] {
            assert_eq!(
                KeyValues::parse(text, &KEYS).expect("well formed").need("path"),
                Err(KeyValueError::Missing("path"))
            );
        }
    }

    #[test]
    fn switch_other_word_names_the_two() {
        let pairs = KeyValues::parse("path=a,readonly=yes", &KEYS).expect("well formed");
        assert_eq!(pairs.switch("readonly").expect_err("yes").to_string(), "readonly=yes: use on or off");
    }
}
