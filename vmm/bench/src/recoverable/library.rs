//! A library of the system that is opened when it is there: peers to be measured with, which the program does not carry.
#![allow(unsafe_code, reason = "dlopen and dlsym")]

use std::ffi::{CStr, CString, c_void};

/// An open library; it stays open until the program ends.
#[derive(Clone, Copy)]
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Opens `soname`, which the Debian package `package` has.
    pub(crate) fn open(soname: &str, package: &str) -> Result<Self, String> {
        let name = CString::new(soname).map_err(|error| error.to_string())?;
        // SAFETY: a string that ends with 0; the libraries named here do nothing harmful when they are loaded.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: after a failure `dlerror` gives a string, valid until the next call of this thread.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
            return Err(format!("{why}; `apt-get install {package}` brings it"));
        }
        Ok(Self(handle))
    }

    /// The address of a function.
    pub(crate) fn symbol(self, name: &str) -> Result<*mut c_void, String> {
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the handle is open, the string ends with 0.
        let symbol = unsafe { libc::dlsym(self.0, text.as_ptr()) };
        if symbol.is_null() { Err(format!("the library has no {name}")) } else { Ok(symbol) }
    }
}

/// Declares a struct of functions of a library, and its loading.
macro_rules! functions {
    ($(#[$doc:meta])* struct $name:ident { $($function:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $name { $($function: $type,)+ }

        impl $name {
            fn load(library: $crate::recoverable::library::Library) -> Result<Self, String> {
                Ok(Self { $(
                    // SAFETY: the type is the function's, as the library's header declares it.
                    $function: unsafe {
                        std::mem::transmute::<*mut std::ffi::c_void, $type>(library.symbol(stringify!($function))?)
                    },
                )+ })
            }
        }
    };
}
pub(crate) use functions;
