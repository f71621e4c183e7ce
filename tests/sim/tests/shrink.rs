//! What a rule broken on purpose breaks is made small, and breaks the same when it is run again from its text.

use sim::shrink::{Shrunk, shrink, violation_of};
use sim::{Break, Case, Plan};

const SEEDS: u64 = 60;

fn first_case(rule: Break) -> Case {
    let mut cases = (0..SEEDS).map(|seed| Case { seed, plan: Plan::of_seed(seed, Some(rule)) });
    cases.find(|case| violation_of(case).is_some()).expect("the rule is caught")
}

#[test]
fn plan_of_a_broken_rule_shrinks_to_two_faults_and_replays() {
    for rule in [Break::RunWithoutClaim, Break::WitnessForgets, Break::StoreUndelisted, Break::VoidUntold] {
        let case = first_case(rule);
        let Shrunk { case: small, violation, .. } = shrink(&case).expect("it breaks a rule");
        assert!(small.plan.faults.len() <= 2, "{rule:?}: {small}");
        let replayed: Case = small.to_string().parse().expect("the text of a case is one");
        assert_eq!(replayed, small);
        assert_eq!(violation_of(&replayed), Some(violation), "{rule:?}: {small}");
    }
}

#[test]
fn shrunk_case_is_the_same_each_time() {
    let case = first_case(Break::ForgetPage);
    let shrunk = || shrink(&case).expect("it breaks a rule").case;
    assert_eq!(shrunk(), shrunk());
}
