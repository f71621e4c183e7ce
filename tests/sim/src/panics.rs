//! A panic of the code under test ends a run like any other broken rule.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// What a panic said on this thread, while that is wanted.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something; what a panic in it says is the error. Every other panic is told as ever.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_kept = SAID.with_borrow_mut(|said| said.as_mut().map(|said| *said = info.to_string()).is_some());
            if !is_kept {
                tell(info);
            }
        }));
    });
    SAID.set(Some(String::new()));
    let ended = catch_unwind(AssertUnwindSafe(run));
    let said = SAID.take();
    ended.map_err(|_| said.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_an_error_that_says_what_it_said() {
        let said = catch(|| assert_eq!(1 + 1, 3, "sums")).expect_err("it panics");
        assert!(said.contains("sums"), "{said}");
        assert_eq!(catch(|| 4), Ok(4));
    }
}
