//! How long packets may be: path MTU discovery by probing (DPLPMTUD, RFC 8899; `docs/spec/flow.md#path-mtu`).
//!
//! A flow begins with packets that every path carries. Once it has something to send that needs several, it looks for the longest that
//! arrives: it sends PING and PAD of one size after the other, the largest first, and waits for their acknowledgements.
//! What it found it watches: when long packets vanish while short ones arrive, it goes back to the beginning and looks again.
//!
//! This is the search alone: it knows sizes, tries and times, and neither packets nor flows.

use crate::Instant;
use crate::time::Span;
use crate::wire::BASE_PAYLOAD;

/// Losses of probes of one size after which that is believed not to pass (RFC 8899 §5.1.2, MAX_PROBES).
const MAX_PROBES: u8 = 3;
/// When a larger size is looked for again (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
pub(crate) const RAISE: Span = Span::from_secs(600);
/// Signs of a black hole, a round trip apart each, after which it is one (RFC 8899 §4.3 asks for repeated evidence; three,
/// as MAX_PROBES).
const SUSPICIONS: u8 = 3;
/// Sizes worth a try, with IP and UDP header: tunnels and clouds that take a little off 1 500 (Google Cloud: 1 460), Ethernet, jumbo frames
/// less what a fabric adds, jumbo frames. The interface's own comes on top.
const SIZES: [u32; 4] = [9000, 8500, 1500, 1460];

const BASE: u32 = BASE_PAYLOAD as u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next size is to be probed.
    Search,
    /// A probe is under way, and is given up at this time.
    Probing(Instant),
    /// The largest was found; look for more at this time.
    Settled(Instant),
}

/// See the module. Sizes are UDP payloads.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// What packets may have now.
    current: u32,
    /// The most that is worth a try.
    limit: u32,
    /// The size that is tried, 0 if none is left.
    size: u32,
    tries: u8,
    phase: Phase,
    suspicions: u8,
    suspected_at: Instant,
    /// Short packets were acknowledged while long ones were waited for.
    short_ones_pass: bool,
    headers: u32,
    /// [`Mtu::current`] changed since [`Mtu::take_news`].
    news: bool,
}

impl Mtu {
    /// Packets of up to `limit` bytes are possible. `known`: what the path carried lately, and when that was found.
    pub(crate) fn new(limit: u32, ipv4: bool, known: Option<(u32, Instant)>) -> Self {
        let mut mtu = Self {
            current: BASE,
            limit,
            size: 0,
            tries: 0,
            phase: Phase::Search,
            suspicions: 0,
            suspected_at: Instant::ZERO,
            short_ones_pass: false,
            headers: if ipv4 { 28 } else { 48 },
            news: false,
        };
        if let Some((size, at)) = known {
            mtu.current = size.clamp(BASE, limit);
            mtu.phase = Phase::Settled(at + RAISE);
        } else {
            mtu.size = mtu.below(u32::MAX);
        }
        mtu
    }

    pub(crate) const fn current(&self) -> u32 {
        self.current
    }

    /// The current size, if it changed since this was last asked.
    pub(crate) fn take_news(&mut self) -> Option<u32> {
        std::mem::take(&mut self.news).then_some(self.current)
    }

    /// The largest size worth a try below `size`, 0 if there is none.
    fn below(&self, size: u32) -> u32 {
        let sizes = SIZES.into_iter().map(|ip| ip - self.headers).filter(|&size| size < self.limit);
        let all = std::iter::once(self.limit).chain(sizes);
        all.filter(|&other| other < size && other > self.current).max().unwrap_or(0)
    }

    /// The size of the probe to send now.
    pub(crate) fn due(&self) -> Option<u32> {
        (self.phase == Phase::Search && self.size > 0).then_some(self.size)
    }

    /// True if there are news, or a probe is due.
    pub(crate) fn wants_turn(&self) -> bool {
        self.news || self.due().is_some()
    }

    /// The probe that was due went out; it is given up after `patience`.
    pub(crate) fn sent(&mut self, now: Instant, patience: Span) {
        self.phase = Phase::Probing(now + patience);
    }

    /// When [`Mtu::on_timer`] has something to do.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Search => None,
            Phase::Probing(at) | Phase::Settled(at) => Some(at),
        }
    }

    pub(crate) fn on_timer(&mut self, now: Instant) {
        match self.phase {
            Phase::Probing(at) if at <= now => self.on_lost(now, self.size),
            Phase::Settled(at) if at <= now => {
                self.tries = 0;
                self.size = self.below(u32::MAX);
                self.phase = if self.size == 0 { Phase::Settled(now + RAISE) } else { Phase::Search };
            }
            _ => {}
        }
    }

    /// A probe arrived, be it late.
    pub(crate) fn on_acked(&mut self, now: Instant, size: u32) {
        if size <= self.current || size > self.limit {
            return;
        }
        (self.current, self.news) = (size, true);
        self.suspicions = 0;
        if self.size <= size {
            // Larger ones were tried before.
            self.phase = Phase::Settled(now + RAISE);
        }
    }

    /// A probe did not arrive.
    pub(crate) fn on_lost(&mut self, now: Instant, size: u32) {
        if size != self.size || !matches!(self.phase, Phase::Probing(_)) {
            return;
        }
        self.tries += 1;
        if self.tries >= MAX_PROBES {
            (self.tries, self.size) = (0, self.below(self.size));
            // Also that there is nothing to be found is worth knowing.
            self.news |= self.size == 0;
        }
        self.phase = if self.size == 0 { Phase::Settled(now + RAISE) } else { Phase::Search };
    }

    /// True if a part of `len` bytes needs a packet that not every path carries.
    pub(crate) const fn is_long(len: u32) -> bool {
        len > BASE
    }

    /// A long packet arrived.
    pub(crate) const fn on_long_acked(&mut self) {
        self.suspicions = 0;
        self.short_ones_pass = false;
    }

    /// A short packet arrived while a PTO's back-off goes on: whatever it is that does not arrive, it is not the path.
    pub(crate) const fn on_short_acked(&mut self) {
        self.short_ones_pass = true;
    }

    /// The third PTO in a row, or a later one. Returns true if that is a black hole.
    pub(crate) fn on_stuck(&mut self, now: Instant) -> bool {
        self.short_ones_pass && self.on_black_hole(now)
    }

    /// A long packet was lost. Returns true if that is a black hole: then the current size has changed.
    pub(crate) fn on_long_lost(&mut self, now: Instant, round_trip: Span) -> bool {
        // Losses of one round trip are one sign: it may have been congestion.
        if self.current > BASE && (self.suspicions == 0 || self.suspected_at + round_trip <= now) {
            self.suspicions += 1;
            self.suspected_at = now;
        }
        self.suspicions >= SUSPICIONS && self.on_black_hole(now)
    }

    /// Long packets vanish while short ones arrive. Returns true if packets are shorter from now on.
    fn on_black_hole(&mut self, now: Instant) -> bool {
        if self.current <= BASE {
            return false;
        }
        (self.current, self.news, self.suspicions, self.short_ones_pass) = (BASE, true, 0, false);
        self.tries = 0;
        // All sizes, for it may have been the peer that refused them.
        self.size = self.below(u32::MAX);
        self.phase = if self.size == 0 { Phase::Settled(now + RAISE) } else { Phase::Search };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Span = Span::from_millis(1);
    const fn ms(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    /// What is found on a path that carries `path`, the probes it takes, and their sizes.
    fn search(mtu: &mut Mtu, path: u32, now: Instant) -> Vec<u32> {
        let mut sizes = Vec::new();
        while let Some(size) = mtu.due() {
            sizes.push(size);
            mtu.sent(now, PATIENCE);
            if size <= path { mtu.on_acked(now, size) } else { mtu.on_timer(now + PATIENCE) }
        }
        sizes
    }

    #[test]
    fn finds_each_size() {
        for (ipv4, headers) in [(true, 28), (false, 48)] {
            for (path, found) in [(9000, 9000), (8999, 8500), (8000, 1500), (1499, 1460), (1400, 1232 + headers)] {
                let mut mtu = Mtu::new(9001 - headers, ipv4, None);
                search(&mut mtu, path - headers, ms(1));
                assert_eq!(mtu.current() + headers, found, "{path}");
                assert!(mtu.due().is_none());
                assert_eq!(mtu.take_news().map(|size| size + headers), Some(found));
            }
        }
        let mut mtu = Mtu::new(65_507, true, None);
        assert_eq!(search(&mut mtu, 65_507, ms(1)), [65_507], "the interface's own, at once");
        let mut mtu = Mtu::new(1472, true, None);
        assert_eq!(search(&mut mtu, 1400, ms(1)), [1472, 1472, 1472, 1432, 1432, 1432]);
    }

    #[test]
    fn looks_again_after_its_time() {
        let mut mtu = Mtu::new(8972, true, None);
        search(&mut mtu, 1472, ms(0));
        let at = mtu.deadline().unwrap();
        mtu.on_timer(at - Span::from_nanos(1));
        assert!(mtu.due().is_none());
        mtu.on_timer(at);
        assert_eq!(search(&mut mtu, 8972, at), [8972]);
        assert_eq!(mtu.current(), 8972);
    }

    #[test]
    fn what_is_known_is_not_probed_until_it_is_old() {
        let mut mtu = Mtu::new(8972, true, Some((8472, ms(5))));
        assert_eq!((mtu.current(), mtu.due(), mtu.deadline()), (8472, None, Some(ms(5) + RAISE)));
        mtu.on_timer(ms(5) + RAISE);
        assert_eq!(mtu.due(), Some(8972));
        assert_eq!(Mtu::new(1472, true, Some((8472, ms(5)))).current(), 1472, "never beyond the limit");
    }

    #[test]
    fn three_signs_a_round_trip_apart_are_a_black_hole() {
        let mut mtu = Mtu::new(8972, true, None);
        search(&mut mtu, 8972, ms(0));
        let rtt = Span::from_millis(10);
        // A burst is one sign, and one that arrives refutes them.
        for _ in 0..100 {
            assert!(!mtu.on_long_lost(ms(100), rtt));
        }
        assert!(!mtu.on_long_lost(ms(110), rtt));
        mtu.on_long_acked();
        for at in [120, 129, 130] {
            assert!(!mtu.on_long_lost(ms(at), rtt));
        }
        assert!(mtu.on_long_lost(ms(140), rtt));
        assert_eq!(mtu.current(), 1232);
        assert_eq!(search(&mut mtu, 8480, ms(150)), [8972, 8972, 8972, 8472]);
        assert_eq!(mtu.current(), 8472);
        assert!(!mtu.on_stuck(ms(200)), "perhaps nothing passes");
        mtu.on_short_acked();
        assert!(mtu.on_stuck(ms(200)));
        search(&mut mtu, 0, ms(200));
        assert_eq!(mtu.current(), 1232);
        mtu.on_short_acked();
        assert!(!mtu.on_stuck(ms(300)) && !mtu.on_long_lost(ms(300), rtt), "shorter than what every path carries");
    }

    #[test]
    fn a_late_probe_counts_and_a_foreign_one_does_not() {
        let mut mtu = Mtu::new(8972, true, None);
        for _ in 0..3 {
            mtu.sent(ms(0), PATIENCE);
            mtu.on_timer(ms(1));
        }
        assert_eq!(mtu.due(), Some(8472));
        mtu.on_acked(ms(2), 8972);
        assert_eq!((mtu.current(), mtu.due()), (8972, None));
        mtu.on_acked(ms(2), 20_000);
        mtu.on_lost(ms(3), 8472);
        assert_eq!(mtu.current(), 8972);
    }
}
