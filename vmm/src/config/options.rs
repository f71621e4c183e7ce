//! What a user typed, in groups: each group is one struct for the command line and for the `--config` file, so that the two
//! cannot differ.
//!
//! A group lies in the file that also checks it ([`super::guest`], [`super::devices`], …). Each field's comment is its
//! `--help`, and its name is the long option and the key of the file. A command ([`super::RunOptions`],
//! [`super::BackupOptions`]) is a list of groups.

use std::fmt;
use std::fs;
use std::path::Path;

use clap::Args;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::error::ConfigError;

/// A file names no other file.
const NO_KEY: &str = "config";
/// Names less alike than this are no misspelling of each other, by Jaro's measure: what clap takes for options.
const LIKENESS_MIN: f64 = 0.7;

/// What flags and a file say of the same.
pub trait Over {
    /// This, which flags say, over what `file` says: a flag wins, a list given as flags replaces the file's list.
    #[must_use]
    fn over(self, file: Self) -> Self;
}

impl<T> Over for Option<T> {
    fn over(self, file: Self) -> Self {
        self.or(file)
    }
}

impl<T> Over for Vec<T> {
    fn over(self, file: Self) -> Self {
        if self.is_empty() { file } else { self }
    }
}

/// All options of a command.
pub trait Options: Args + Over {
    /// What a file with this text says: the long options as TOML.
    ///
    /// # Errors
    /// The first key that is none, or the first value that its key does not take, with its line.
    fn of_toml(text: &str) -> Result<Self, toml::de::Error>;

    /// The file that the flags name.
    fn file(&self) -> Option<&Path>;
}

/// These flags over what the file says that they name.
pub fn with_file<T: Options>(flags: T) -> Result<T, ConfigError> {
    let Some(path) = flags.file() else { return Ok(flags) };
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    let file = T::of_toml(&text)
        .map_err(|error| ConfigError::BadFile { path: path.into(), reason: error.to_string().trim_end().into() })?;
    Ok(flags.over(file))
}

/// A group of options.
macro_rules! group {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$option:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
        $(#[$about])*
        #[serde(default, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[$option])* pub $field: $type,)*
        }

        $crate::config::options::over!($name { $($field)* });
    };
}

/// The options of a command: groups, of which `control` names the file.
macro_rules! command {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* $group:ident: $type:ty,)* }) => {
        #[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
        $(#[$about])*
        pub struct $name {
            $($(#[$doc])* #[command(flatten)] pub $group: $type,)*
        }

        $crate::config::options::over!($name { $($group)* });

        impl $crate::config::options::Options for $name {
            fn of_toml(text: &str) -> Result<Self, toml::de::Error> {
                $crate::config::options::check_keys::<Self>(text)?;
                // Each group takes its own keys of the whole text, so that an error knows its line.
                Ok(Self { $($group: toml::from_str(text)?,)* })
            }

            fn file(&self) -> Option<&std::path::Path> {
                self.control.config.as_deref()
            }
        }
    };
}

/// It destructures every field, so that a forgotten one does not compile.
macro_rules! over {
    ($name:ident { $($field:ident)* }) => {
        impl $crate::config::options::Over for $name {
            fn over(self, file: Self) -> Self {
                let Self { $($field,)* } = self;
                Self { $($field: $field.over(file.$field),)* }
            }
        }
    };
}

pub(super) use {command, group, over};

/// The keys that a file may have for `T`: its long options.
fn keys_of<T: Args>() -> Vec<String> {
    let command = T::augment_args(clap::Command::new("keys"));
    let long = command.get_arguments().filter_map(|option| option.get_long());
    long.filter(|key| *key != NO_KEY).map(str::to_owned).collect()
}

/// Refuses a key that is none of `T`.
pub(super) fn check_keys<T: Args>(text: &str) -> Result<(), toml::de::Error> {
    Keys(&keys_of::<T>()).deserialize(toml::Deserializer::parse(text)?)
}

/// A table of no other keys than these.
#[derive(Clone, Copy)]
struct Keys<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Key(self))?.is_some() {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// One of these keys. It fails where the key is read, because there the reader knows the line.
struct Key<'a>(Keys<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Keys(known) = self.0;
        let key = String::deserialize(from)?;
        if known.contains(&key) {
            return Ok(());
        }
        let expected = match nearest(&key, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("expected one of `{}`", known.join("`, `")),
        };
        Err(D::Error::custom(format_args!("unknown field `{key}`, {expected}")))
    }
}

/// The name that was most likely meant.
fn nearest<'a>(typed: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = known.iter().map(|name| (strsim::jaro(typed, name), name));
    likeness.filter(|(like, _)| *like > LIKENESS_MIN).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
