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
    /// It is missing and needed.
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
    /// Whether all that is needed is there.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Missing)
    }
}

/// Looks at this host.
pub fn examine() -> Report {
    let (mut checks, kvm) = kvm::open();
    let opened = kvm.is_some();
    if let Some(kvm) = kvm {
        checks.extend(kvm::capabilities(&kvm));
        checks.extend(mix::checks());
    }
    let verdict = verdict(opened, &checks);
    checks.extend(host::checks());
    Report { checks, verdict }
}

/// `checks` are those about KVM only: a missing tap forbids no guest.
fn verdict(opened: bool, checks: &[Check]) -> Verdict {
    let missing: Vec<&str> = checks.iter().filter(|c| c.state == State::Missing).map(|c| c.name.as_str()).collect();
    match (opened, missing.as_slice()) {
        (false, _) => Verdict { guests: Guests::None, text: "runs no guests: /dev/kvm cannot be used".into() },
        (true, []) => Verdict { guests: Guests::Linux, text: "runs Linux guests".into() },
        (true, missing) => Verdict {
            guests: Guests::BareOnly,
            text: format!(
                "runs bare guests only: its KVM fails at {}; for Linux guests use a host with hardware KVM, or the lab \
                 (tests/lab)",
                missing.join(", ")
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_follows_from_what_is_missing() {
        let lacking = [Check::ok("a", "1"), Check::lacks(State::Missing, "int3", "not emulated", "x")];
        assert_eq!(verdict(false, &[]).guests, Guests::None);
        assert_eq!(verdict(true, &[Check::ok("a", "1")]).guests, Guests::Linux);
        let verdict = verdict(true, &lacking);
        assert_eq!(verdict.guests, Guests::BareOnly);
        assert!(verdict.text.contains("fails at int3;"), "{}", verdict.text);
    }

    #[test]
    fn report_is_good_with_notes_but_not_with_something_missing() {
        let report = |state| Report {
            checks: vec![Check::ok("a", "1"), Check::lacks(state, "b", "no", "x")],
            verdict: Verdict { guests: Guests::Linux, text: String::new() },
        };
        assert!(report(State::Note).is_good());
        assert!(!report(State::Missing).is_good());
    }

    #[test]
    fn examine_ends_and_always_says_something_about_kvm() {
        let report = examine();
        assert_eq!(report.checks[0].name, "/dev/kvm");
        assert_eq!(report.verdict.guests == Guests::None, report.checks[0].state == State::Missing);
    }
}
