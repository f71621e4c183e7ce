//! Which boot of this host this is: what was noted in one boot says nothing of another.

use std::fs;

use snapshot::disklog::Boot;

pub(crate) use machine::random::id as random;

const ID: &str = "/proc/sys/kernel/random/boot_id";
const STATISTICS: &str = "/proc/stat";

/// This boot. Where the kernel does not tell, it is like no other.
pub fn this_boot() -> Boot {
    let id = fs::read_to_string(ID).ok().and_then(|text| id_of(&text)).unwrap_or_else(random);
    let began = fs::read_to_string(STATISTICS).ok().and_then(|text| began_of(&text));
    Boot { id, began: began.unwrap_or(i64::MAX) }
}

fn id_of(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let number = if digits.len() == 32 { u128::from_str_radix(&digits, 16).ok() } else { None };
    number.map(u128::to_be_bytes)
}

fn began_of(text: &str) -> Option<i64> {
    let seconds: i64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    seconds.checked_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_is_read_as_the_kernel_writes_it() {
        let id = id_of("0123abcd-4567-89ab-cdef-0123456789ab\n");
        assert_eq!(id.map(|id| (id[0], id[15])), Some((0x01, 0xab)));
        assert_eq!((id_of("0123"), id_of("")), (None, None));
        assert_eq!(began_of("cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000_000_000_000));
        assert_eq!(began_of("cpu 1 2\n"), None);
        assert_eq!(this_boot(), this_boot());
    }
}
