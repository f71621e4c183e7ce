//! What this host can do, what is missing, and how to get it.
//!
//! A [`Report`] is a list of [`Check`]s and a [`Verdict`]. Some checks ask the kernel, some run a tiny guest: an odd KVM
//! may offer every capability and still not run the instructions that a Linux kernel needs.
//!
//! Every probe ends in bounded time. Nothing on the host is changed.

mod host;
mod kvm;
mod mix;
mod probe;
mod program;
mod sys;

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there.
    Ok,
    /// It is missing, and something is slower or not offered without it.
    Note,
    /// It is missing, and Linux guests need it; the bare guests of `guest-images/bare` do not.
    BareOnly,
    /// It is missing, and every guest needs it.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was seen.
    pub found: String,
    /// What it is for, when it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How to get it, when it is missing and there is a way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Check { name: name.into(), state: State::Ok, found: found.into(), why: None, remedy: None }
    }

    fn lacks(state: State, name: impl Into<String>, found: impl Into<String>, why: impl Into<String>) -> Self {
        Check { name: name.into(), state, found: found.into(), why: Some(why.into()), remedy: None }
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Which guests run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guests {
    /// Unmodified Linux.
    Linux,
    /// Only guests that avoid what this KVM lacks.
    BareOnly,
    /// None.
    None,
}

/// What follows from the checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which guests run here.
    pub guests: Guests,
    /// The same as a sentence, with the reason.
    pub text: String,
}

/// All that was looked at, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each thing, in the order in which one depends on another.
    pub checks: Vec<Check>,
    /// What follows.
    pub verdict: Verdict,
}

impl Report {
    /// Whether guests of the kind `wanted` run here.
    pub fn runs(&self, wanted: Guests) -> bool {
        match self.verdict.guests {
            Guests::Linux => true,
            Guests::BareOnly => wanted != Guests::Linux,
            Guests::None => wanted == Guests::None,
        }
    }
}

/// Looks at this host.
pub fn examine() -> Report {
    let (mut checks, kvm) = kvm::open();
    let opened = kvm.is_some();
    if let Some(kvm) = kvm {
        checks.extend(kvm::capabilities(&kvm));
        checks.extend(mix::checks(&kvm));
    }
    let verdict = verdict(opened, &checks);
    checks.extend(host::checks());
    Report { checks, verdict }
}

/// `checks` are those about KVM only: a missing tap forbids no guest.
fn verdict(opened: bool, checks: &[Check]) -> Verdict {
    let lacking = |state: State| {
        let names = checks.iter().filter(|check| check.state == state).map(|check| check.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    match (opened, lacking(State::Missing).as_str(), lacking(State::BareOnly).as_str()) {
        (false, ..) => Verdict { guests: Guests::None, text: "runs no guests: /dev/kvm cannot be used".into() },
        (true, "", "") => Verdict { guests: Guests::Linux, text: "runs Linux guests".into() },
        (true, "", missing) => Verdict {
            guests: Guests::BareOnly,
            text: format!(
                "runs bare guests: part 1 of docs/TUTORIAL.md can run here. It does not run Linux guests: its KVM fails at \
                 {missing}. For those use a host with hardware KVM, or the lab (tests/lab)"
            ),
        },
        (true, missing, _) => {
            Verdict { guests: Guests::None, text: format!("runs no guests: its KVM lacks {missing}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_follows_from_what_is_missing() {
        let lacks = |state| [Check::ok("a", "1"), Check::lacks(state, "int3", "not emulated", "x")];
        assert_eq!(verdict(false, &[]).guests, Guests::None);
        assert_eq!(verdict(true, &lacks(State::Note)).guests, Guests::Linux);
        let bare = verdict(true, &lacks(State::BareOnly));
        assert_eq!(bare.guests, Guests::BareOnly);
        assert!(bare.text.contains("part 1 of docs/TUTORIAL.md can run here"), "{}", bare.text);
        assert!(bare.text.contains("fails at int3."), "{}", bare.text);
        let none = verdict(true, &lacks(State::Missing));
        assert_eq!((none.guests, none.text.as_str()), (Guests::None, "runs no guests: its KVM lacks int3"));
    }

    #[test]
    fn host_runs_what_it_was_asked_for_or_not() {
        let report = |guests| Report { checks: Vec::new(), verdict: Verdict { guests, text: String::new() } };
        assert!(report(Guests::Linux).runs(Guests::BareOnly) && report(Guests::Linux).runs(Guests::Linux));
        assert!(report(Guests::BareOnly).runs(Guests::BareOnly) && !report(Guests::BareOnly).runs(Guests::Linux));
        assert!(!report(Guests::None).runs(Guests::BareOnly));
    }

    #[test]
    fn examine_ends_and_always_says_something_about_kvm() {
        let report = examine();
        assert_eq!(report.checks[0].name, "/dev/kvm");
        assert_eq!(report.verdict.guests == Guests::None, report.checks[0].state == State::Missing);
    }
}
