//! The command line of `outlast-bench`: its page, and what it refuses.

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outlast-bench")).args(args).output().expect("the program is there")
}

#[test]
fn help_shows_how_it_is_called_and_nothing_that_does_not_exist() {
    let page = String::from_utf8(bench(&["--help"]).stdout).expect("UTF-8");
    assert!(page.contains("Usage: outlast bench"), "{page}");
    for word in ["0.0.0.0", "vsock", "switchover", "161", "162", "not in this version"] {
        assert!(!page.to_lowercase().contains(word), "{word}");
    }
}

#[test]
fn option_of_another_question_is_refused_and_nothing_is_measured() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out");
    let refused = bench(&["pause", "--out", out.to_str().expect("UTF-8"), "--workload", "nope"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("takes no --workload"));
    assert!(!out.exists());
}
