//! When a registry that stumbles is asked again, and when not any more.
//!
//! Exponential backoff with jitter, so that the nodes of a cluster that were refused together do
//! not come back together; never before a `Retry-After` is over (RFC 9110, section 10.2.3).

use std::hash::{BuildHasher, RandomState};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use hyper::header::{self, HeaderMap};

use super::http::Timeouts;
use super::registry_error::RegistryError;

/// Times that one request is sent.
const TRIES: u32 = 5;

/// How often and how long one request may still be waited for.
pub(super) struct Patience {
    tries: u32,
    /// Before the next try, at most.
    backoff: Duration,
    /// For all tries that are left.
    total: Duration,
}

impl Patience {
    pub(super) fn new(timeouts: Timeouts) -> Patience {
        Patience { tries: TRIES, backoff: timeouts.first_wait, total: timeouts.waits_total }
    }

    /// Waits before another try after `error`; fails with it where none would help, or no more are
    /// left.
    pub(super) fn wait(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        // The standard library's hasher is seeded by the kernel, once a thread.
        let random = RandomState::new().hash_one(self.tries);
        match error.may_pass().then(|| self.next_wait(error.retry_after(), random)).flatten() {
            Some(wait) => {
                sleep(wait);
                Ok(())
            }
            None => Err(error),
        }
    }

    /// `None`: give up.
    fn next_wait(&mut self, asked: Option<Duration>, random: u64) -> Option<Duration> {
        self.tries = self.tries.checked_sub(1).filter(|left| *left > 0)?;
        let half = self.backoff / 2;
        let share = u32::try_from(random % 1024).expect("less than 1024");
        let wait = asked.unwrap_or_default().saturating_add(half + half * share / 1024);
        self.backoff *= 2;
        self.total = self.total.checked_sub(wait)?;
        Some(wait)
    }
}

/// Sends `request`, and again while that may help.
pub(super) fn try_again<T>(
    timeouts: Timeouts,
    request: impl Fn() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut patience = Patience::new(timeouts);
    loop {
        match request() {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.wait(error)?,
        }
    }
}

/// How long a registry asks to wait: seconds, or until a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(parse_date(text)?).saturating_sub(now))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the form that senders must use (RFC 9110,
/// section 5.6.7).
fn parse_date(text: &str) -> Option<u64> {
    let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let parts: Vec<&str> = date.split([' ', ':']).collect();
    let [day, month, year, hour, minute, second] = parts[..] else { return None };
    let number = |part: &str| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok())?
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let (day, year) = (number(day)?, number(year)?);
    let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = leap_days(year) > leap_days(year - 1);
    let before = DAYS_BEFORE[month] + u64::from(is_leap && month > 1);
    let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969) + before + day - 1;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second.min(60))
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Days of a common year before each month.
const DAYS_BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn patience() -> Patience {
        let first_wait = Duration::from_millis(100);
        let waits_total = Duration::from_secs(10);
        Patience::new(Timeouts { first_wait, waits_total, ..Timeouts::default() })
    }

    #[test]
    fn waits_longer_each_time_and_gives_up() {
        for (random, share) in [(0, 512), (1023, 1023), (u64::MAX, 1023)] {
            let mut patience = patience();
            for wait in [100, 200, 400, 800] {
                let full = Duration::from_millis(wait);
                let waited = patience.next_wait(None, random).unwrap();
                assert!(waited >= full * share / 1024 - Duration::from_micros(1), "{waited:?}");
                assert!(waited <= full, "{waited:?}");
            }
            assert_eq!(patience.next_wait(None, random), None, "five tries in all");
        }
    }

    #[test]
    fn waits_as_long_as_it_is_asked_to_but_not_for_ever() {
        let mut patience = patience();
        let asked = Duration::from_secs(6);
        let waited = patience.next_wait(Some(asked), 0).unwrap();
        assert_eq!(waited, asked + Duration::from_millis(50));
        assert_eq!(patience.next_wait(Some(asked), 0), None, "12 s of 10");
        assert_eq!(self::patience().next_wait(Some(Duration::MAX), 0), None);
    }

    fn after(text: &str) -> Option<Duration> {
        let value = HeaderValue::try_from(text).unwrap();
        retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)]))
    }

    #[test]
    fn reads_seconds_and_dates() {
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO), "is over");
        let far = after("Fri, 31 Dec 9999 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(86_400 * 365 * 7000));
        for text in ["", "-1", "soon", "Sun, 06 Nov 1994", "Sun, 6 Nov 94 08:49:37 GMT"] {
            assert_eq!(after(text), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    /// `date -u -d DATE +%s` of GNU coreutils says the same.
    #[test]
    fn dates_are_the_seconds_that_others_count() {
        let dates = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ];
        for (date, seconds) in dates {
            assert_eq!(parse_date(date), Some(seconds), "{date}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_dates_do_not_panic(text in "\\PC{0,40}", date in "[A-Z][a-z]{2}, [0-9]{2} \
            (Jan|Feb|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT") {
            let _ = (parse_date(&text), parse_date(&date));
        }
    }
}
