//! What guests say on their console, and whether it is what an untouched guest would have said.

use crate::Guest;

/// What a console showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The last value of the guest's key; the starting point if it said nothing yet.
    pub last: u64,
    /// Whether the guest said that it is done.
    pub done: bool,
    /// Whether the guest said that it crashes.
    pub crashed: bool,
}

/// The value of `key` in a line: 16 hexadecimal digits behind `key=`.
fn value(line: &str, key: &str) -> Option<u64> {
    let digits = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    if digits.len() == 16 { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// The last complete value of the guest's key in `text`, without any check.
pub fn latest(guest: &Guest, text: &str) -> Option<u64> {
    let complete = text.rsplit_once('\n')?.0;
    complete.lines().rev().find_map(|line| value(line, guest.key))
}

/// Checks that `text` is what `guest` says from its start on, without a gap, a repetition or a complaint. A line that
/// is not complete yet, at the end, is not looked at.
pub fn check(guest: &Guest, text: &str) -> Result<Said, String> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let mut said = Said { last: 0, done: false, crashed: false };
    let mut common = 0;
    for (number, line) in complete.lines().enumerate() {
        let wrong = |why: &str| format!("line {}: {line:?}: {why}", number + 1);
        if said.done || said.crashed {
            return Err(wrong("the guest was done"));
        }
        match line.split(['=', ' ']).next() {
            Some("cpus" | "ready") if number == 0 => {}
            Some("last") if number == 0 => said.last = value(line, "last").ok_or_else(|| wrong("no number"))?,
            Some("done") => said.done = true,
            Some("crash") => said.crashed = true,
            Some(key) if key == guest.key => {
                let next = value(line, key).ok_or_else(|| wrong("no number"))?;
                if next != said.last + guest.step {
                    return Err(wrong(&format!("{} follows {}", next, said.last)));
                }
                said.last = next;
                if let Some(now) = value(line, "common") {
                    if now <= common {
                        return Err(wrong("the common count does not grow"));
                    }
                    common = now;
                }
            }
            _ => return Err(wrong("no line of a healthy guest")),
        }
    }
    Ok(said)
}

/// Joins what the first console showed with what the second one showed: the second may begin by repeating the end of
/// the first, and together they must be what `guest` says.
pub fn join(guest: &Guest, first: &str, second: &str) -> Result<String, String> {
    let longest = first.len().min(second.len());
    let overlaps = (0..=longest).rev().filter(|&len| first.as_bytes().ends_with(&second.as_bytes()[..len]));
    let mut why = String::new();
    for len in overlaps {
        let joined = format!("{first}{}", &second[len..]);
        match check(guest, &joined) {
            Ok(_) => return Ok(joined),
            Err(error) => why = format!("{why}\n  repeating {len} bytes: {error}"),
        }
    }
    Err(format!("no way to join both consoles:{why}"))
}

/// What a guest that crashed and began anew, once or more, has said: each life goes on behind some line of the story so far,
/// as if what came later had not been; its first line may have begun before.
pub fn story(console: &str) -> String {
    let mut story = String::new();
    for (number, life) in console.split("crash\n").enumerate() {
        let life = match (number, life.split_once('\n')) {
            (0, _) => life,
            (_, Some((_, whole_lines))) => whole_lines,
            (_, None) => continue,
        };
        // The end of a line alone may be that of many.
        let two: String = life.split_inclusive('\n').take(2).collect();
        let first = life.split_inclusive('\n').next().unwrap_or_default();
        if let Some(at) = story.find(&two).or_else(|| story.rfind(first)) {
            story.truncate(at);
        }
        story.push_str(life);
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(range: std::ops::RangeInclusive<u64>) -> String {
        range.map(|n| format!("count={n:016x}\n")).collect()
    }

    #[test]
    fn check_gap_repetition_and_complaint_are_refused() {
        let guest = Guest::counter();
        assert_eq!(check(&guest, &counts(1..=9)), Ok(Said { last: 9, done: false, crashed: false }));
        assert!(check(&guest, &counts(2..=9)).is_err(), "the first line is missing");
        assert!(check(&guest, &(counts(1..=3) + &counts(5..=6))).is_err());
        assert!(check(&guest, &(counts(1..=3) + &counts(3..=6))).is_err());
        for complaint in ["CORRUPT what=0000000000000001", "TRAP=000000000000000e", "ERROR span"] {
            assert!(check(&guest, &format!("{}{complaint}\n", counts(1..=3))).is_err());
        }
    }

    #[test]
    fn check_common_count_that_falls_back_is_refused() {
        let line = |round: u64, common: u64| format!("round={round:016x} common={common:016x}\n");
        let good = "cpus=0000000000000002\n".to_owned() + &line(1, 10) + &line(2, 20);
        assert!(check(&Guest::smp(), &good).is_ok());
        assert!(check(&Guest::smp(), &(good + &line(3, 19))).is_err());
    }

    #[test]
    fn story_of_lives_is_cut_back_where_each_began() {
        let guest = Guest::counter();
        let lives = counts(1..=20) + "crash\n" + &counts(1..=2) + "crash\n" + "000002\n" + &counts(3..=30);
        assert_eq!(story(&lives), counts(1..=30));
        // It goes back into the word that parts its lives, and then within a line.
        let parted = counts(1..=600) + "crash\n" + "ash\n" + "2\n" + &counts(0x123..=0x130);
        assert_eq!(story(&parted), counts(1..=0x130));
        assert_eq!(check(&guest, &story(&lives)).map(|said| said.last), Ok(30));
        assert!(check(&guest, &story(&(lives + "crash\nx\n" + &counts(32..=33)))).is_err(), "a line is lost");
    }

    #[test]
    fn join_removes_what_is_repeated_and_finds_what_is_lost() {
        let (guest, whole) = (Guest::counter(), counts(1..=40));
        for (end, begin) in [(400, 400), (407, 380), (407, 22), (400, 0)] {
            assert_eq!(join(&guest, &whole[..end], &whole[begin..]), Ok(whole.clone()), "{end} {begin}");
        }
        assert!(join(&guest, &whole[..400], &whole[401..]).is_err(), "a byte is lost");
        assert!(join(&guest, &whole[..400], &counts(19..=40)).is_err(), "lines are lost");
        assert!(join(&guest, &whole[..400], &counts(1..=5)).is_err(), "the second stays behind the first");
    }
}
