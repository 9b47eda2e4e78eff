//! Who did much lately, and who little.
//!
//! Whoever uses less than their share of the engine wants an answer soon, and costs the others next to nothing by being
//! first: the rule for new flows of fq_codel (RFC 8290 §4), for applications, and for all that an engine does for them:
//! what is taken from pipes, built, received and put into pipes, in bytes and a price for each piece. So the engine sorts
//! while there are both kinds: those who did little, *light* ones, go first in every step of a round, and what is done for
//! the others is done in small amounts, between which it looks whether a light one came. A round that has something to
//! do for light ones is an *express*: it leaves the others aside.
//!
//! Time is counted in work: a window is over when so much was done, whatever it took. Nobody is light who used more than three
//! quarters of an equal share of the last one, or of this one so far: so light ones cannot starve the others, and nobody
//! gains by doing much at times.

/// Work for each application that did any, after which it is judged anew who did how much of it: some 50 µs of an engine's time, and
/// several turns.
const WINDOW: u64 = 256 << 10;
/// What a light one may use of it.
const ALLOWANCE: u64 = WINDOW / 4 * 3;
/// Bytes taken, received, sent, and put into pipes in one round for those who are not light: what a light one may have to wait for.
const GRAIN: u32 = 16 << 10;
/// The same while no light one did anything for [`PATIENCE`] windows: somebody looks after each piece all the same.
const COARSE: u32 = 128 << 10;
const PATIENCE: u32 = 16;
/// Express rounds in a row.
const STREAK: u32 = 8;
/// What a packet, a message or a mark costs beside its bytes: what copying so many would.
pub(super) const PIECE: u64 = 256;

/// What all did.
#[derive(Debug)]
pub(super) struct Shares {
    /// In this window, and by how many.
    work: u64,
    active: u64,
    /// How much is done in it.
    window: u64,
    /// Windows since a light one did anything.
    calm: u32,
    sorts: bool,
    /// Something was done for a light one since the last round was decided about.
    hurries: bool,
    streak: u32,
    is_express: bool,
}

/// What one application did in this window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    used: u64,
    /// It did little in the last.
    pub(super) is_light: bool,
}

impl Share {
    /// Who comes has done nothing yet.
    pub(super) const NEW: Self = Self { used: 0, is_light: true };
}

impl Shares {
    pub(super) const fn new() -> Self {
        Self { work: 0, active: 0, window: WINDOW, calm: 0, sorts: false, hurries: false, streak: 0, is_express: false }
    }

    /// Something was done for an application.
    #[inline]
    pub(super) fn charge(&mut self, share: &mut Share, cost: u64) {
        if cost == 0 {
            return;
        }
        self.active += u64::from(share.used == 0);
        share.used += cost;
        self.work += cost;
        self.hurries |= share.is_light;
        share.is_light &= share.used < ALLOWANCE;
    }

    /// True if a window is over: judge.
    pub(super) const fn is_over(&self) -> bool {
        self.work >= self.window
    }

    /// Judges who is light, and begins a window.
    pub(super) fn judge<'a>(&mut self, shares: impl Iterator<Item = &'a mut Share>) {
        let (work, active) = (std::mem::take(&mut self.work), std::mem::take(&mut self.active));
        let (mut heavy, mut light, mut waits) = (false, false, false);
        for share in shares {
            let used = std::mem::take(&mut share.used);
            share.is_light = used < 3 * work / (4 * active.max(1));
            heavy |= !share.is_light;
            light |= share.is_light;
            waits |= share.is_light && used > 0;
        }
        self.window = WINDOW * active.max(1);
        self.calm = if waits { 0 } else { self.calm.saturating_add(1) };
        self.sorts = heavy && light;
    }

    /// While light ones go first: how much is done for the others before somebody looks.
    pub(super) const fn grain(&self) -> Option<u32> {
        match self.sorts {
            false => None,
            true if self.calm < PATIENCE => Some(GRAIN),
            true => Some(COARSE),
        }
    }

    /// Nobody goes first any more.
    pub(super) const fn stop_sorting(&mut self) {
        (self.sorts, self.is_express) = (false, false);
    }

    /// Decides whether the round is an express.
    pub(super) const fn decide(&mut self) {
        let hurries = std::mem::replace(&mut self.hurries, false);
        self.is_express = self.sorts && hurries && self.streak < STREAK;
        self.streak = if self.is_express { self.streak + 1 } else { 0 };
    }

    /// True in a round that leaves aside who is not light.
    pub(super) const fn is_express(&self) -> bool {
        self.is_express
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window in which `used` was done for each.
    fn window(shares: &mut Shares, each: &mut [Share], used: &[u64]) {
        each.iter_mut().zip(used).for_each(|(share, used)| shares.charge(share, *used));
        assert!(shares.is_over());
        shares.judge(each.iter_mut());
    }

    fn light(each: &[Share]) -> Vec<bool> {
        each.iter().map(|share| share.is_light).collect()
    }

    #[test]
    fn who_uses_his_share_is_not_light() {
        let (mut shares, mut each) = (Shares::new(), [Share::NEW; 4]);
        window(&mut shares, &mut each, &[WINDOW, 0, 0, 0]);
        assert_eq!(light(&each), [false, true, true, true]);
        // A pair that sends all it can, and one that sends now and then.
        window(&mut shares, &mut each, &[2 * WINDOW, 2 * WINDOW, WINDOW / 10, WINDOW / 10]);
        assert_eq!((light(&each), shares.grain()), (vec![false, false, true, true], Some(GRAIN)));
        // All send all they can: nobody is first.
        window(&mut shares, &mut each, &[WINDOW; 4]);
        assert_eq!((light(&each), shares.grain()), (vec![false; 4], None));
        (0..=PATIENCE).for_each(|_| window(&mut shares, &mut each, &[4 * WINDOW, 0, 0, 0]));
        assert_eq!(shares.grain(), Some(COARSE), "nobody came for long");
        // Who comes and does much is not light until the window is over.
        shares.charge(&mut each[1], ALLOWANCE);
        assert!(!each[1].is_light);
    }

    #[test]
    fn express_rounds_end() {
        let (mut shares, mut each) = (Shares::new(), [Share::NEW; 2]);
        shares.decide();
        assert!(!shares.is_express(), "nobody is in the way");
        window(&mut shares, &mut each, &[WINDOW, 1]);
        let mut express = 0;
        for _ in 0..90 {
            shares.charge(&mut each[1], 1);
            shares.decide();
            express += u32::from(shares.is_express());
        }
        assert_eq!(express, 80, "one of nine is for the others");
        shares.decide();
        assert!(!shares.is_express(), "nobody came");
    }
}
