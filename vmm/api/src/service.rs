//! Who serves a verb, and the way to it from a request.

use crate::{Answer, Fault, Method, Pace, Parameters, Reply, Verb};

/// Serves a verb.
pub trait Service<V: Verb> {
    /// Does it, or says why not.
    fn serve(&self, request: V::Request) -> Result<V::Answer, Fault>;
}

/// A request that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method as it was sent.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What stands behind `?`, empty if nothing.
    pub query: String,
    /// What came behind the headers.
    pub body: Vec<u8>,
}

/// The way from a request to the service of its verb.
pub(crate) struct Route<F> {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) pace: Pace,
    pub(crate) serve: fn(&F, &Request) -> Result<Reply, Fault>,
}

impl<F> Route<F> {
    pub(crate) fn of<V: Verb>() -> Self
    where
        F: Service<V>,
    {
        Route { method: V::METHOD, path: V::PATH, pace: V::PACE, serve: serve::<V, F> }
    }
}

fn serve<V: Verb, F: Service<V>>(face: &F, request: &Request) -> Result<Reply, Fault> {
    let asked = V::Request::decode(&request.query, &request.body).map_err(|why| {
        Fault::bad_request(format!("{} {}: {why}", request.method, request.path))
            .with_hint(format!("GET /openapi.json says what {} {} takes", request.method, request.path))
    })?;
    face.serve(asked).map(|answer| answer.encode())
}
