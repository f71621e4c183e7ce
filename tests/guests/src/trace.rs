//! The order in which a program had files put on stable storage and gave them their names, as strace(1) saw it.

use std::collections::HashMap;
use std::path::Path;

/// What strace is to show.
pub(crate) const CALLS: &str = "trace=fsync,fdatasync,linkat";

/// One system call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `fsync`, `fdatasync`, `linkat`.
    pub name: String,
    /// What it was given, descriptors with their paths: `5</a/lock>`.
    pub arguments: String,
    /// The line of the trace at which it began.
    pub begun: usize,
    /// That at which it was done.
    pub done: usize,
}

impl Call {
    /// Whether it put the file or directory at `path` on stable storage.
    pub fn syncs(&self, path: &Path) -> bool {
        self.name.ends_with("sync") && self.arguments.contains(&format!("<{}>", path.display()))
    }

    /// Whether it gave a file this name.
    pub fn names(&self, name: &str) -> bool {
        self.name == "linkat" && self.arguments.contains(&format!(", \"{name}\""))
    }
}

/// The calls of a trace, in the order in which they were done.
pub fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(text) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (line, text.to_owned()));
            continue;
        }
        let (begun, text) = match text.split_once(" resumed>") {
            Some((_, rest)) => match unfinished.remove(thread) {
                Some((begun, text)) => (begun, text + rest),
                None => continue,
            },
            None => (line, text.to_owned()),
        };
        let Some((call, result)) = text.rsplit_once(" = ") else { continue };
        let Some((name, arguments)) = call.trim_end().split_once('(') else { continue };
        if result.trim() == "0" {
            calls.push(Call { name: name.to_owned(), arguments: arguments.to_owned(), begun, done: line });
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_with_their_files_also_where_two_threads_mix_and_failed_ones_are_left_out() {
        let trace = "7 fsync(5</a/lock>) = 0\n8 fsync(6</a> <unfinished ...>\n7 linkat(4</w>, \".x\", 4</w>, \"vm.view-1\", 0) = 0\n\
                     8 <... fsync resumed>)         = 0\n9 fsync(5</b>)                   = -1 EIO (Input/output error)\n9 +++ exited with 0 +++\n";
        let calls = calls(trace);
        assert_eq!(calls.len(), 3, "{calls:?}");
        assert!(calls[0].syncs(Path::new("/a/lock")) && !calls[0].syncs(Path::new("/a")));
        assert!(calls[1].names("vm.view-1") && !calls[1].names("vm.view-12"));
        assert!(calls[2].syncs(Path::new("/a")));
        assert_eq!((calls[2].begun, calls[2].done), (1, 3));
    }
}
