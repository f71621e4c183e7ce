//! The program that people get has nothing in it that makes it fail; the one that tests ask for faults is the same in all else.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use guests::program;

/// Variables that faults are asked for by, and steps that have no other use for their name.
const MARKS: [&str; 6] =
    ["OUTLAST_KILL_AT", "OUTLAST_FAIL_AT", "OUTLAST_SLOW_AT", "LocallyCommitted", "FillingDiskLog", "GuestSync"];

fn marks_in(program: &Path) -> Vec<&'static str> {
    let bytes = fs::read(program).expect("it was built");
    MARKS.into_iter().filter(|mark| bytes.windows(mark.len()).any(|part| part == mark.as_bytes())).collect()
}

fn says(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the program starts");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).expect("it says text")
}

#[test]
fn program_that_people_get_has_no_fault_in_it() {
    // The kill points of the tests were in every release: an environment could end a primary at any step.
    let nothing: [&str; 0] = [];
    assert_eq!(marks_in(program::outlast()), nothing);
    assert_eq!(marks_in(program::outlast_faults()), MARKS, "or this test finds nothing anywhere");
}

#[test]
fn program_of_the_tests_says_what_the_other_says() {
    for args in [&["--version"][..], &["--help"], &["run", "--help"], &["backup", "--help"], &["resume", "--help"]] {
        assert_eq!(says(program::outlast(), args), says(program::outlast_faults(), args), "{args:?}");
    }
}

#[test]
fn test_that_asks_for_a_fault_runs_the_program_that_has_it() {
    let of = |name: &str| program::for_environment([OsStr::new("PATH"), OsStr::new(name)].into_iter());
    for name in &MARKS[..3] {
        assert_eq!(of(name), program::outlast_faults());
    }
    assert_eq!(of("OUTLAST_LOG"), program::outlast());
}
