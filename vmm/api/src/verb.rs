//! What a verb is.

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::{Answer, Parameters};

/// How a verb is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Asks, and changes nothing.
    Get,
    /// Sets.
    Put,
    /// Changes a part.
    Patch,
    /// Takes away.
    Delete,
}

impl Method {
    /// As in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// How soon a verb is answered, and so which of the server's threads asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once. Such verbs wait for no slow one.
    Prompt,
    /// After a commit or a copy. One at a time.
    Slow,
    /// At the end of the VM. Such verbs wait for no other.
    Ending,
}

/// Something that a VM can be asked: what is sent where, and what comes back.
pub trait Verb: 'static {
    /// How it is sent.
    const METHOD: Method;
    /// Where to, without a query.
    const PATH: &'static str;
    /// What it does, in a sentence without a full stop.
    const HELP: &'static str;
    /// How soon it is answered.
    const PACE: Pace;
    /// What is said with it.
    type Request: Parameters;
    /// What comes back if it is done; a [`Fault`](crate::Fault) if not.
    type Answer: Answer;
}

/// A verb as a value: a row of the table that documents and messages are made of.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The verb's name.
    pub name: &'static str,
    /// See [`Verb`].
    pub method: Method,
    /// See [`Verb`].
    pub path: &'static str,
    /// See [`Verb`].
    pub help: &'static str,
    /// See [`Verb`].
    pub pace: Pace,
    /// OpenAPI's `parameters` or `requestBody`.
    pub(crate) request: fn(&mut SchemaGenerator) -> Option<(&'static str, Value)>,
    /// OpenAPI's `responses`, without those that say why it was not done.
    pub(crate) responses: fn(&mut SchemaGenerator) -> Value,
}

impl Description {
    pub(crate) const fn of<V: Verb>(name: &'static str) -> Self {
        Description {
            name,
            method: V::METHOD,
            path: V::PATH,
            help: V::HELP,
            pace: V::PACE,
            request: V::Request::describe,
            responses: V::Answer::describe,
        }
    }
}
