//! A range of IPv4 addresses.

use std::net::Ipv4Addr;

/// The most addresses of a range: the folder's listing stays short enough to be read at once.
const MOST: u32 = 65_536;

/// First and last address, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u32,
    last: u32,
}

impl Range {
    /// Reads `FIRST-LAST`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').ok_or_else(|| format!("{text:?} is not FIRST-LAST"))?;
        let address =
            |part: &str| part.trim().parse::<Ipv4Addr>().map_err(|_| format!("{part:?} is not an IPv4 address"));
        let (first, last) = (u32::from(address(first)?), u32::from(address(last)?));
        if last < first {
            return Err(format!("{text:?} ends before it begins"));
        }
        if last - first >= MOST {
            return Err(format!("{text:?} has more than {MOST} addresses"));
        }
        Ok(Self { first, last })
    }

    /// How many addresses it has.
    pub(crate) fn len(self) -> u32 {
        self.last - self.first + 1
    }

    /// All addresses, beginning with the `start`th (modulo its length) and wrapping round.
    pub(crate) fn from(self, start: u32) -> impl Iterator<Item = Ipv4Addr> {
        let (first, length) = (self.first, self.len());
        (0..length).map(move |step| {
            let offset = (u64::from(start) + u64::from(step)) % u64::from(length);
            Ipv4Addr::from(first + u32::try_from(offset).unwrap_or(0))
        })
    }
}
