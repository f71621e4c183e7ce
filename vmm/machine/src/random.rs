//! Random bytes from the host's kernel: all that were requested, or an error.

use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

/// Fills `bytes`. The kernel may give fewer than were asked for, and a signal, of which a vCPU thread gets many, interrupts
/// it: only the whole is an answer.
pub fn fill(bytes: &mut [u8]) {
    #[expect(clippy::disallowed_methods, reason = "the one place: fewer bytes and interruptions are dealt with")]
    fill_by(bytes, |rest| rustix::rand::getrandom(rest, GetRandomFlags::empty()));
}

/// Sixteen bytes that nobody else has.
pub fn id() -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    bytes
}

fn fill_by(bytes: &mut [u8], mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) {
    let mut filled = 0;
    while filled < bytes.len() {
        match get(&mut bytes[filled..]) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Linux has had the call since 3.17, and does not refuse it without flags.
            Err(error) => panic!("the kernel gives no random numbers: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_interrupted_answers_are_asked_on_until_all_is_filled() {
        let mut answers = vec![Ok(3), Err(Errno::INTR), Ok(0), Ok(1), Err(Errno::INTR), Ok(4)].into_iter();
        let mut bytes = [0; 8];
        fill_by(&mut bytes, |rest| {
            let answer = answers.next().expect("no more is asked for than is missing");
            if let Ok(count) = answer {
                rest[..count].fill(7);
            }
            answer
        });
        assert_eq!(bytes, [7; 8]);
        assert!(answers.next().is_none());
    }

    #[test]
    fn more_than_a_signal_lets_through_at_once_is_filled() {
        let mut bytes = [0; 4096];
        fill(&mut bytes);
        // Each run of 32 zeros would be there once in 2^256 times.
        assert!(bytes.chunks(32).all(|part| part != [0; 32]));
    }
}
