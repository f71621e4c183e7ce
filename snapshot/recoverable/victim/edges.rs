//! What `tests/edges.rs` has done to it.
#![expect(unsafe_code, reason = "a signal handler of the program's own, and a bad store")]

use std::path::Path;

use recoverable::{Error, RecoverableMemory, Vista, VistaOptions};

/// One transaction, then the region is let go.
pub(crate) fn unmap(dir: &Path) -> Result<(), Error> {
    let mut vista = Vista::open(dir.join("log"), VistaOptions::default())?;
    let region = vista.map(dir.join("a"), 9000)?;
    RecoverableMemory::begin(&mut vista)?;
    recoverable::Declare::set_range(&mut vista, region, 0..10)?.fill(1);
    RecoverableMemory::end(&mut vista)?;
    vista.unmap(region)
}

/// Stores where nothing may be stored, while a tracked region is there.
pub(crate) fn fault(dir: &Path, has_handler: bool) -> Result<(), Error> {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: ends the process, from a handler too.
        unsafe { libc::_exit(77) };
    }
    let handler: extern "C" fn(libc::c_int) = leave;
    let handler = if has_handler { handler as libc::sighandler_t } else { libc::SIG_DFL };
    // SAFETY: the handler only leaves.
    unsafe { libc::signal(libc::SIGSEGV, handler) };
    let mut vista = Vista::open(dir.join("log"), VistaOptions::default())?;
    let region = vista.map_tracked(dir.join("tracked"), 8192)?;
    let mut transaction = vista.begin()?;
    transaction.memory(region)?[0] = 1;
    transaction.end()?;
    let address = vista.bytes(region)?.as_ptr().cast_mut();
    // SAFETY: it is not safe: the page is read-only now, and this ends the process.
    unsafe { address.write_volatile(2) };
    Ok(())
}
