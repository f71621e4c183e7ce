//! Whether a host can keep what a guest was promised of its processor. Pure: tables in, a list of lacks out.
//!
//! What a guest was told is not taken back: it has chosen its code by it. So each register of a leaf has a rule by which
//! the host's must serve for the guest's. Registers without a rule describe (names, caches, topology) and promise nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CpuidTable, EAX, EBX, ECX, ECX_HYPERVISOR, ECX_TSC_DEADLINE, EDX, EDX_HTT};
use super::{LEAF_AMD_FEATURES, LEAF_FEATURES, LEAF_SIZES, LEAF_VENDOR, LEAF_XSAVE};

/// Lacks that a text names; the rest is counted.
const NAMED_MAX: usize = 1;

/// A register that describes the processor and that a guest can read: `KVM_GET_MSR_FEATURE_INDEX_LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureMsr {
    /// Which one.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// What a guest was promised, or what a host can promise.
#[derive(Debug, Clone, Copy)]
pub struct Promise<'a> {
    /// CPUID.
    pub cpuid: &'a CpuidTable,
    /// Feature registers, as many as are known.
    pub msrs: &'a [FeatureMsr],
}

/// How the host's value must serve for the guest's.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// The same.
    Equal,
    /// Every bit of the guest's but these, which depend on the running state or on ourselves.
    Bits { except: u32 },
    /// Each byte at least the guest's: widths, versions, counts.
    Bytes,
}

const BITS: Rule = Rule::Bits { except: 0 };

/// Leaf, index, register, rule.
#[rustfmt::skip]
const RULES: &[(u32, u32, usize, Rule)] = &[
    (LEAF_FEATURES, 0, ECX, Rule::Bits { except: OSXSAVE | ECX_HYPERVISOR | ECX_TSC_DEADLINE }),
    (LEAF_FEATURES, 0, EDX, Rule::Bits { except: EDX_HTT }),
    (6, 0, EAX, BITS),
    (7, 0, EBX, BITS), (7, 0, ECX, Rule::Bits { except: OSPKE }), (7, 0, EDX, BITS),
    (7, 1, EAX, BITS), (7, 1, EBX, BITS), (7, 1, ECX, BITS), (7, 1, EDX, BITS),
    (7, 2, EDX, BITS),
    // Performance counters: version, number, width.
    (0xa, 0, EAX, Rule::Bytes),
    // States that can be turned on, and instructions that save them.
    (LEAF_XSAVE, 0, EAX, BITS), (LEAF_XSAVE, 0, EDX, BITS),
    (LEAF_XSAVE, 1, EAX, BITS), (LEAF_XSAVE, 1, ECX, BITS), (LEAF_XSAVE, 1, EDX, BITS),
    // AVX10: version, and vector lengths in the third byte, of which a longer one implies the shorter.
    (0x24, 0, EBX, Rule::Bytes),
    // What KVM itself offers, which depends on its kernel.
    (LEAF_KVM, 0, EAX, BITS),
    (LEAF_AMD_FEATURES, 0, ECX, Rule::Bits { except: CMP_LEGACY }), (LEAF_AMD_FEATURES, 0, EDX, BITS),
    (0x8000_0007, 0, EBX, BITS), (0x8000_0007, 0, EDX, BITS),
    (LEAF_SIZES, 0, EAX, Rule::Bytes), (LEAF_SIZES, 0, EBX, BITS),
    (0x8000_0021, 0, EAX, BITS), (0x8000_0021, 0, ECX, BITS),
    (0x8000_0022, 0, EAX, BITS),
    // Zhaoxin's instructions.
    (0xc000_0001, 0, EDX, BITS),
];

const OSXSAVE: u32 = 1 << 27;
const OSPKE: u32 = 1 << 4;
const CMP_LEGACY: u32 = 1 << 1;
const LEAF_KVM: u32 = 0x4000_0001;
/// Leaves of AMX's tiles: if a guest has them, all of it must be the same.
const TILES: [u32; 2] = [0x1d, 0x1e];

/// Feature registers: which bits must be there if the guest has them, which must not be there unless it has them, and which
/// are a number that must be the same.
#[rustfmt::skip]
const MSR_RULES: &[(u32, u64, u64, u64)] = &[
    // IA32_ARCH_CAPABILITIES: immunities and features, but for two bits that warn (return stack attacks).
    (0x10a, !ARCH_WARNINGS, ARCH_WARNINGS, 0),
    // MSR_PLATFORM_INFO: CPUID can be made to fault.
    (0xce, 1 << 31, 0, 0),
    // IA32_PERF_CAPABILITIES: the format of branch records and what else there is.
    (0x345, !0x3f, 0, 0x3f),
    // DE_CFG: LFENCE waits.
    (0xc001_1029, 1 << 1, 0, 0),
];
const ARCH_WARNINGS: u64 = 1 << 2 | 1 << 19;

/// The feature registers that are compared.
pub fn compared_msrs() -> impl Iterator<Item = u32> {
    MSR_RULES.iter().map(|rule| rule.0)
}

/// What a host does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It is another vendor's.
    Vendor {
        /// The guest's.
        guest: [u8; 12],
        /// The host's.
        host: [u8; 12],
    },
    /// Something in a register of a CPUID leaf.
    Leaf {
        /// The leaf.
        leaf: u32,
        /// Its index.
        index: u32,
        /// Which register, from EAX.
        register: usize,
        /// As the guest was told.
        guest: u32,
        /// As it is here.
        host: u32,
    },
    /// Something in a feature register.
    Msr {
        /// The register.
        index: u32,
        /// As the guest reads it.
        guest: u64,
        /// As it is here.
        host: u64,
    },
}

/// All that `host` lacks of what `guest` was promised, in the order of the leaves.
pub fn lacks(guest: Promise<'_>, host: Promise<'_>) -> Vec<Lack> {
    let (ours, theirs) = (vendor(host.cpuid), vendor(guest.cpuid));
    if ours != theirs {
        // Nothing else is worth comparing.
        return vec![Lack::Vendor { guest: theirs, host: ours }];
    }
    let mut found: Vec<Lack> = RULES
        .iter()
        .map(|&(leaf, index, register, rule)| (leaf, index, register, rule))
        .chain(states_of(guest.cpuid))
        .chain(tiles_of(guest.cpuid))
        .filter_map(|(leaf, index, register, rule)| {
            let [theirs, ours] = [guest, host].map(|side| side.cpuid.registers(leaf, index)[register]);
            (!rule.serves(theirs, ours)).then_some(Lack::Leaf { leaf, index, register, guest: theirs, host: ours })
        })
        .collect();
    found.extend(guest.msrs.iter().filter_map(|msr| msr_lack(*msr, host.msrs)));
    found
}

fn vendor(table: &CpuidTable) -> [u8; 12] {
    let [_, ebx, ecx, edx] = table.registers(LEAF_VENDOR, 0);
    let mut name = [0; 12];
    name.chunks_exact_mut(4).zip([ebx, edx, ecx]).for_each(|(part, word)| part.copy_from_slice(&word.to_le_bytes()));
    name
}

/// Size and place in the save area of each state that the guest may turn on: the area moves as it is.
fn states_of(guest: &CpuidTable) -> impl Iterator<Item = (u32, u32, usize, Rule)> {
    let [low, _, _, high] = guest.registers(LEAF_XSAVE, 0);
    let states = u64::from(high) << 32 | u64::from(low);
    let indices = (2..63).filter(move |index| states & 1 << index != 0);
    indices.flat_map(|index| [EAX, EBX].map(|register| (LEAF_XSAVE, index, register, Rule::Equal)))
}

fn tiles_of(guest: &CpuidTable) -> impl Iterator<Item = (u32, u32, usize, Rule)> {
    let told = guest.entries.iter().filter(|e| TILES.contains(&e.function) && e.registers != [0; 4]);
    told.flat_map(|e| [EAX, EBX, ECX, EDX].map(|register| (e.function, e.index, register, Rule::Equal)))
}

impl Rule {
    fn serves(self, guest: u32, host: u32) -> bool {
        match self {
            Self::Equal => guest == host,
            Self::Bits { except } => guest & !host & !except == 0,
            Self::Bytes => guest.to_le_bytes().iter().zip(host.to_le_bytes()).all(|(guest, host)| *guest <= host),
        }
    }
}

fn msr_lack(guest: FeatureMsr, host: &[FeatureMsr]) -> Option<Lack> {
    let &(index, needed, warning, number) = MSR_RULES.iter().find(|rule| rule.0 == guest.index)?;
    let ours = host.iter().find(|msr| msr.index == index).map_or(0, |msr| msr.value);
    let theirs = guest.value;
    let serves = theirs & !ours & needed == 0 && ours & !theirs & warning == 0 && (theirs ^ ours) & number == 0;
    (!serves).then_some(Lack::Msr { index, guest: theirs, host: ours })
}

impl Lack {
    fn remedy(self) -> &'static str {
        match self {
            Self::Vendor { .. } => "use a host with a CPU of the guest's vendor",
            Self::Leaf { leaf: LEAF_KVM, .. } => {
                "run a kernel here that is as new as the one where the guest was booted"
            }
            Self::Leaf { .. } => {
                "use the CPU model, firmware settings and kernel of the host where the guest was booted, or newer"
            }
            Self::Msr { .. } => "use the microcode and kernel of the host where the guest was booted, or newer",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Vendor { guest, host } => {
                let [guest, host] = [guest, host].map(|name| name.map(printable).iter().collect::<String>());
                write!(f, "the guest's CPU is {guest}, this host's {host}")
            }
            Self::Leaf { leaf, index, register, guest, host } => {
                let name = ["eax", "ebx", "ecx", "edx"][register];
                write!(f, "CPUID leaf {leaf:#x}.{index} {name} is {guest:#x} for the guest, {host:#x} here")
            }
            Self::Msr { index, guest, host } => {
                write!(f, "register {index:#x} is {guest:#x} for the guest, {host:#x} here")
            }
        }
    }
}

/// A peer says what it wants.
fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() { byte.into() } else { '.' }
}

/// What to do, and what is lacking: short enough for a refusal that a peer prints. `None` if nothing is.
pub fn refusal(lacks: &[Lack]) -> Option<String> {
    let first = lacks.first()?;
    let named: Vec<String> = lacks.iter().take(NAMED_MAX).map(Lack::to_string).collect();
    let more = match lacks.len() - named.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!("{}: {}{more}", first.remedy(), named.join(", ")))
}

#[cfg(test)]
mod tests;
