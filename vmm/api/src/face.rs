//! From a request to its reply: which verb it is, what it says, who serves it.
//!
//! What is wrong with a request is a [`Fault`] that says what would be right: 404 for a path, 405 for a method, 400 for what is
//! said with it.

use crate::service::Route;
use crate::verbs::{Face, routes};
use crate::{Fault, Pace, Reply, Request};

/// How soon `request` will be answered.
pub fn pace<F: Face>(request: &Request) -> Pace {
    find::<F>(request).map_or(Pace::Prompt, |route| route.pace)
}

/// Has `face` serve `request`.
pub fn answer<F: Face>(request: &Request, face: &F) -> Reply {
    match find::<F>(request) {
        Ok(route) => (route.serve)(face, request).unwrap_or_else(|fault| Reply::fault(fault.http_status(), &fault)),
        Err(refusal) => refusal,
    }
}

fn find<F: Face>(request: &Request) -> Result<Route<F>, Reply> {
    let there: Vec<Route<F>> = routes::<F>().into_iter().filter(|route| route.path == request.path).collect();
    let methods: Vec<&str> = there.iter().map(|route| route.method.as_str()).collect();
    let allow = methods.join(", ");
    there.into_iter().find(|route| route.method.as_str() == request.method).ok_or_else(|| match &*allow {
        "" => {
            let fault = Fault::bad_request(format!("there is no {}", request.path));
            Reply::fault(404, &fault.with_hint("GET /openapi.json lists what there is"))
        }
        allow => {
            let fault = Fault::bad_request(format!("{} does not take {}", request.path, request.method));
            let fault = fault.with_hint(format!("it takes {allow}"));
            Reply { allow: Some(allow.to_owned()), ..Reply::fault(405, &fault) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use crate::{Method, verbs};

    fn request(method: &str, target: &str, body: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request { method: method.into(), path: path.into(), query: query.into(), body: body.into() }
    }

    fn asked(method: &str, target: &str, body: &str) -> (u16, Vec<String>) {
        let fake = Fake::default();
        (answer(&request(method, target, body), &fake).status, fake.calls())
    }

    fn refusal(method: &str, target: &str, body: &str) -> (u16, Fault) {
        let fake = Fake::default();
        let reply = answer(&request(method, target, body), &fake);
        assert_eq!(fake.calls(), [""; 0], "{method} {target} {body}");
        (reply.status, serde_json::from_slice(&reply.body).expect("a fault"))
    }

    #[test]
    fn answer_each_change_asks_for_it_once() {
        let table = [
            ("PATCH", "/vm", r#"{"state":"Paused"}"#, 204),
            ("PATCH", "/vm", r#"{"state":"Resumed"}"#, 204),
            ("PUT", "/ft", r#"{"protect":"tcp:b:7000","epoch":"10ms"}"#, 200),
            ("DELETE", "/ft", "", 204),
            ("DELETE", "/metrics", "", 204),
            ("PUT", "/ft/take-over", r#"{"dead":["0a1b2c3d"]}"#, 204),
            ("PUT", "/ft/switchover", r#"{"back":true}"#, 200),
            ("PUT", "/ft/witness", r#"{"witness":"file:/w"}"#, 204),
            ("PUT", "/actions", r#"{"action_type":"Stop"}"#, 204),
            ("PUT", "/snapshot/create", r#"{"snapshot_path":"/s"}"#, 200),
        ];
        for (method, target, body, status) in table {
            let call = format!("{method} {target} {body}").trim_end().to_owned();
            assert_eq!(asked(method, target, body), (status, vec![call]));
        }
        assert_eq!(table.len() - 1, verbs::ALL.iter().filter(|verb| verb.method != Method::Get).count());
    }

    #[test]
    fn answer_every_get_is_200() {
        for verb in verbs::ALL.iter().filter(|verb| verb.method == Method::Get) {
            assert_eq!(asked("GET", verb.path, "").0, 200, "{}", verb.path);
        }
    }

    #[test]
    fn answer_what_is_said_wrongly_is_400_with_what_would_be_right() {
        for (method, target, body, word) in [
            ("PATCH", "/vm", "", "empty"),
            ("PATCH", "/vm", "state=Paused", "expected value"),
            ("PATCH", "/vm", r#"{"state":"Asleep"}"#, "`Paused` or `Resumed`"),
            ("PATCH", "/vm", r#"{"state":"Paused","now":true}"#, "unknown field `now`"),
            ("PUT", "/ft", r#"{"protect":7}"#, "expected a string"),
            ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, "`Stop`"),
            ("GET", "/events?since=x", "", "since=N"),
            ("GET", "/vm?pretty", "", "takes none"),
        ] {
            let (status, fault) = refusal(method, target, body);
            assert_eq!((status, fault.code), (400, crate::Exit::Usage));
            assert!(fault.message.contains(word), "{}", fault.message);
            assert!(fault.hint.expect("a hint").contains("/openapi.json"));
        }
    }

    #[test]
    fn answer_unknown_path_and_method_are_404_and_405() {
        let (status, fault) = refusal("GET", "/nope", "");
        assert_eq!((status, fault.hint.as_deref()), (404, Some("GET /openapi.json lists what there is")));
        let (status, fault) = refusal("DELETE", "/vm", "");
        assert_eq!((status, fault.hint.as_deref()), (405, Some("it takes GET, PATCH")));
        let reply = answer(&request("POST", "/ft", ""), &Fake::default());
        assert_eq!((reply.status, reply.allow.as_deref()), (405, Some("GET, PUT, DELETE")));
    }

    #[test]
    fn answer_refusal_carries_the_fault() {
        let fake = Fake::refusing();
        let reply = answer(&request("DELETE", "/ft", ""), &fake);
        assert_eq!((reply.status, Fault::decode(409, &reply.body).hint.as_deref()), (409, Some("wait")));
    }

    #[test]
    fn pace_is_slow_for_what_waits_for_the_guest() {
        let pace = |method: &str, path: &str| pace::<Fake>(&request(method, path, ""));
        assert_eq!((pace("PATCH", "/vm"), pace("PUT", "/snapshot/create")), (Pace::Slow, Pace::Slow));
        assert_eq!(pace("PUT", "/actions"), Pace::Ending);
        assert_eq!(pace("PUT", "/ft/switchover"), Pace::Slow, "a stop does not wait behind it");
        assert_eq!((pace("GET", "/vm"), pace("GET", "/x")), (Pace::Prompt, Pace::Prompt));
    }
}
