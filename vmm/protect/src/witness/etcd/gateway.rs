//! Requests to the members of a cluster, through etcd's JSON gateway: to the first address that answers, with certificates and a
//! token where the cluster asks for them.
//!
//! Every answer says which cluster gave it. A [`Dialogue`] is a few requests to one cluster: an answer of another is an error there, and
//! a write goes to no address whose cluster is not known.
//!
//! An address that is silent for a moment costs that moment: the next one is asked beside it ([`super::roster`]). So one request may take
//! place twice, and the second time late. Nothing here minds: reads change nothing; of a record only the first append takes place, since
//! its number is free only once, and the second is the same record by the same try, so whoever reads it back finds his own; a value that is
//! left or stated once more says what it said.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use replication::view::WitnessId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;

use super::address::Target;
use super::credentials::Files;
use super::error::EtcdError;
use super::message::{Authenticate, Header, Refused, Status, Token};
use super::roster::Roster;
use crate::witness::{Health, Member};
use machine::thread::try_spawn;

/// An address that has not answered for so long may not answer at all, and the next one is asked too. A member that is well answers
/// within a tenth of it.
const SILENCE_MAX: Duration = Duration::from_millis(200);
/// For one address. A cluster that lost its leader answers again after one to two seconds, and does not answer until then.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// The same with a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(1);
/// An answer has a page of records at most, each far smaller than 16 KiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The members of a cluster. Clones share their connections.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) target: Arc<Target>,
    session: Arc<Mutex<Session>>,
    roster: Arc<Mutex<Roster>>,
}

/// One request, as every address gets it.
#[derive(Clone)]
struct Request {
    path: &'static str,
    body: Arc<[u8]>,
    /// What tells the cluster of an address that did not give the last answer, before the request goes there.
    probe: Option<(&'static str, Arc<[u8]>)>,
    /// The cluster that it is to; none: whichever answers.
    cluster: Option<u64>,
}

/// What an address answered, and of which cluster it is.
struct Answer {
    at: usize,
    cluster: u64,
    bytes: Vec<u8>,
}

/// What requests are made with.
struct Session {
    agent: Agent,
    files: Option<Files>,
    token: Option<String>,
    /// The files could not be read, and that was told.
    is_stale: bool,
}

/// A few requests that one cluster must answer.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    /// Which; `None`: whichever answers first.
    pub(super) cluster: Option<u64>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Asks nobody yet.
    pub(super) fn new(target: Target) -> Result<Self, EtcdError> {
        let files = target.read_files()?;
        let session = Session { agent: agent(files.as_ref()), files, token: None, is_stale: false };
        let session = Arc::new(Mutex::new(session));
        Ok(Self { target: Arc::new(target), session, roster: Arc::default() })
    }

    /// The answer of the first address that gives one, beginning with the one that gave the last.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        dialogue: &mut Dialogue,
        path: &'static str,
        request: &impl Serialize,
    ) -> io::Result<T> {
        self.answer(dialogue, Request { path, body: json(request), probe: None, cluster: dialogue.cluster })
    }

    /// The same of a request that changes something, which goes to no address of another cluster than that of `dialogue`. One that
    /// did not give the last answer is asked first, by `probe`.
    pub(super) fn write<T: DeserializeOwned>(
        &self,
        dialogue: &mut Dialogue,
        (path, request): (&'static str, &impl Serialize),
        (probe_path, probe): (&'static str, &impl Serialize),
    ) -> io::Result<T> {
        let probe = Some((probe_path, json(probe)));
        self.answer(dialogue, Request { path, body: json(request), probe, cluster: dialogue.cluster })
    }

    /// The token that is used now.
    #[cfg(test)]
    pub(super) fn token(&self) -> Option<String> {
        self.session().token.clone()
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().expect("no holder panics")
    }

    fn answer<T: DeserializeOwned>(&self, dialogue: &mut Dialogue, request: Request) -> io::Result<T> {
        let Answer { at, cluster, bytes } = self.first_answer(&request)?;
        dialogue.cluster = Some(cluster);
        Ok(read(&self.target.addresses[at], &bytes)?)
    }

    /// One address after the other is asked: the next one when those before failed, or have been silent for a moment.
    fn first_answer(&self, request: &Request) -> io::Result<Answer> {
        let mut order = self.roster().order(self.target.addresses.len()).into_iter();
        let (tell, told) = channel();
        let mut failed: Option<EtcdError> = None;
        let mut asked = Vec::new();
        loop {
            match order.next() {
                Some(at) => {
                    let (gateway, request, tell) = (self.clone(), request.clone(), tell.clone());
                    // Nobody may wait for it any more.
                    let ask = move || drop(tell.send((at, gateway.try_at(at, &request))));
                    asked.push(at);
                    try_spawn("etcd".into(), ask)?;
                }
                None if asked.is_empty() => return Err(failed.expect("there is at least one address").into()),
                None => {}
            }
            let heard = match order.len() {
                0 => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => told.recv_timeout(SILENCE_MAX),
            };
            match heard {
                Ok((_, Ok(answer))) => {
                    self.roster().handle_answer(answer.at, answer.cluster, &asked);
                    return Ok(answer);
                }
                Ok((at, Err(error))) => {
                    asked.retain(|other| *other != at);
                    self.roster().handle_silence(at);
                    if failed.as_ref().is_none_or(|before| before.weight() <= error.weight()) {
                        failed = Some(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("this side holds a sender"),
            }
        }
    }

    /// What the member at this address answers, if it is of the cluster that is asked.
    fn try_at(&self, at: usize, request: &Request) -> Result<Answer, EtcdError> {
        if let (Some((path, body)), Some(cluster)) = (&request.probe, request.cluster)
            && !self.roster().answered_last(at, cluster)
        {
            self.accept(at, request, self.ask_bytes(at, path, body)?)?;
        }
        self.accept(at, request, self.ask_bytes(at, request.path, &request.body)?)
    }

    fn accept(&self, at: usize, request: &Request, bytes: Vec<u8>) -> Result<Answer, EtcdError> {
        let address = &self.target.addresses[at];
        let Header { header } = read(address, &bytes)?;
        let found = cluster_of(address, &header.cluster_id)?;
        match request.cluster.filter(|expected| *expected != found) {
            Some(expected) => Err(EtcdError::Another { address: address.clone(), found, expected }),
            None => Ok(Answer { at, cluster: found, bytes }),
        }
    }

    /// What the member at this address answers. One that wants a token gets one, once.
    pub(super) fn ask(&self, at: usize, path: &str, request: &impl Serialize) -> Result<Vec<u8>, EtcdError> {
        self.ask_bytes(at, path, &json(request))
    }

    fn ask_bytes(&self, at: usize, path: &str, body: &[u8]) -> Result<Vec<u8>, EtcdError> {
        let address = &self.target.addresses[at];
        let (agent, token, user) = {
            let session = self.session();
            let user = session.files.as_ref().and_then(|files| files.user.clone());
            (session.agent.clone(), session.token.clone(), user)
        };
        let (status, bytes) = send(&agent, address, path, body, token.as_deref())?;
        if status.is_success() {
            return Ok(bytes);
        }
        let refused = Refused::of(&bytes);
        let name = user.as_ref().map(|user| &*user.name);
        let Some(user) = user.as_ref().filter(|_| refused.lacks_token()) else {
            return Err(EtcdError::of_refusal(address, &refused, status, name));
        };
        let request = Authenticate { name: &user.name, password: &user.password };
        let request = serde_json::to_vec(&request).expect("it has string keys only");
        let (status, bytes) = send(&agent, address, "auth/authenticate", &request, None)?;
        if !status.is_success() {
            let refused = Refused::of(&bytes);
            return Err(match refused.is_of_password() {
                true => {
                    EtcdError::Password { address: address.clone(), user: user.name.clone(), path: user.path.clone() }
                }
                false => EtcdError::of_refusal(address, &refused, status, name),
            });
        }
        let Token { token } = read(address, &bytes)?;
        self.session().token = Some(token.clone());
        let (status, bytes) = send(&agent, address, path, body, Some(&token))?;
        match status.is_success() {
            true => Ok(bytes),
            false => Err(EtcdError::of_refusal(address, &Refused::of(&bytes), status, name)),
        }
    }

    /// What the member at this address says of itself.
    pub(super) fn member(&self, at: usize) -> Member {
        let address = self.target.addresses[at].clone();
        let health = self.ask(at, "maintenance/status", &serde_json::json!({})).and_then(|bytes| {
            let Status { header, version, leader, errors } = read(&address, &bytes)?;
            let cluster = WitnessId(cluster_of(&address, &header.cluster_id)?);
            Ok(Health { version, leads: leader == header.member_id, cluster, errors })
        });
        Member { address, health: health.map_err(|error| error.to_string()) }
    }

    /// What requests are made with, by the files as they are now. Those that cannot be read are no change: they may be about to be
    /// replaced.
    fn session(&self) -> MutexGuard<'_, Session> {
        let mut session = self.session.lock().expect("no holder panics");
        match self.target.read_files() {
            Ok(files) => {
                if files != session.files {
                    *session = Session { agent: agent(files.as_ref()), files, token: None, is_stale: false };
                }
                session.is_stale = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut session.is_stale, true) {
                    tracing::warn!(%error, "what was read before is used for etcd");
                }
            }
        }
        session
    }
}

impl Target {
    fn read_files(&self) -> Result<Option<Files>, EtcdError> {
        let dir: Option<&PathBuf> = self.credentials.as_ref();
        dir.map(|dir| Files::read(dir, self.is_tls())).transpose()
    }
}

fn agent(files: Option<&Files>) -> Agent {
    let connect = if files.is_some() { HANDSHAKE_TIME_MAX } else { CONNECT_TIME_MAX };
    let config = Agent::config_builder()
        .timeout_connect(Some(connect))
        .timeout_global(Some(REQUEST_TIME_MAX))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    let config = match files {
        Some(files) => config.tls_config(files.tls()),
        None => config,
    };
    config.build().new_agent()
}

fn send(
    agent: &Agent,
    address: &str,
    path: &str,
    body: &[u8],
    token: Option<&str>,
) -> Result<(ureq::http::StatusCode, Vec<u8>), EtcdError> {
    let failed = |error| EtcdError::of_request(address, error);
    let mut request = agent.post(format!("{address}/v3/{path}"));
    if let Some(token) = token {
        request = request.header("Authorization", token);
    }
    let mut answer = request.send(body).map_err(failed)?;
    let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(failed)?;
    Ok((answer.status(), bytes))
}

fn json(request: &impl Serialize) -> Arc<[u8]> {
    serde_json::to_vec(request).expect("a request has string keys only").into()
}

/// What is in an answer.
pub(super) fn read<T: DeserializeOwned>(address: &str, bytes: &[u8]) -> Result<T, EtcdError> {
    serde_json::from_slice(bytes).map_err(|error| foreign(address, error.to_string()))
}

fn cluster_of(address: &str, id: &str) -> Result<u64, EtcdError> {
    id.parse().map_err(|_| foreign(address, "it names no cluster".into()))
}

fn foreign(address: &str, why: String) -> EtcdError {
    EtcdError::Foreign { address: address.to_owned(), why }
}
