//! KVM: the VM and vCPU file descriptors, their state, and the dirty log. The only module that issues KVM's ioctls
//! (but for `doctor`, which asks what this host can do).

mod clock;
pub mod cpuid;
mod dirty;
mod first_write;
mod msrs;
mod tsc;
pub mod vcpu;
pub mod vm;
mod xsave;

pub use cpuid::CpuidTable;
pub use first_write::first_write_cost;
pub use vcpu::{Vcpu, VcpuState};
pub use vm::{ChipState, Host, Vm};

/// Most vCPUs of a machine.
pub const VCPUS_MAX: u16 = 8;

/// A refused KVM call.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` could not be opened.
    #[error("cannot open /dev/kvm: {0}; {hint}", hint = open_hint(.0))]
    Open(kvm_ioctls::Error),
    /// The module speaks another API.
    #[error("/dev/kvm has API version {0}, and this program needs 12; use a current Linux kernel")]
    Version(i32),
    /// A capability without which nothing works.
    #[error("this host's KVM lacks {0}; run `outlast doctor` to see what it can do")]
    Missing(&'static str),
    /// An ioctl failed.
    #[error("KVM refused to {what}: {source}")]
    Call {
        /// The operation and what it was done to.
        what: String,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// A model-specific register of the saved state was refused.
    #[error(
        "KVM on this host refuses model-specific register {index:#x} of the saved guest; the hosts' CPUs or kernels differ too much"
    )]
    MsrRefused {
        /// The register.
        index: u32,
    },
}

fn open_hint(error: &kvm_ioctls::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT => "load kvm_intel or kvm_amd (modprobe), or enable virtualization in the firmware",
        libc::EACCES | libc::EPERM => "run as root, or join the group that owns it: usermod -aG kvm $USER",
        _ => "run `outlast doctor`",
    }
}

pub(crate) fn call<T>(what: impl Into<String>, result: Result<T, kvm_ioctls::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError::Call { what: what.into(), source })
}

/// The same for a call whose description is made only if it is refused.
fn call_with<T>(what: impl FnOnce() -> String, result: Result<T, kvm_ioctls::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError::Call { what: what(), source })
}

/// A VM to test with; without `/dev/kvm` the test is counted as skipped.
#[cfg(test)]
pub(crate) fn vm_for_tests() -> Option<Vm> {
    match Vm::new() {
        Err(KvmError::Open(error)) => {
            crate::testing::say_skipped(&format!("/dev/kvm cannot be opened: {error}"));
            None
        }
        vm => Some(vm.expect("this host's KVM has what is needed")),
    }
}
