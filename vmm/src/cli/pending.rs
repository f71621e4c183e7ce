//! Commands that are designed but not built: their arguments are taken, so that the answer is a clear one.

use clap::Args;

/// Anything.
#[derive(Args, Debug)]
pub(super) struct PendingArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _anything: Vec<String>,
}
