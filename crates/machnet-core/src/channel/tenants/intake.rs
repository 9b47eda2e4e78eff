//! What tenants did since the last round: who came and went, what they want, what they sent.

use std::io;

use machnet_channel::shared::{Event, TAIL};
use machnet_channel::{CloseReason, FlowOptions, FlowState, cost_in_units};

use super::gate::{Ended, Gate, News};
use super::shares::PIECE;
use super::tenant::{NONE, Taken, Tenant};
use super::{AppChannel as _, Hint, ListenSlot, Listening, Slot, Tenants};

/// Of what tenants sent, and want, what is looked at in one round: bytes, messages, and marks.
const BYTES: usize = 128 << 10;
const MESSAGES: usize = 1024;
const EVENTS: usize = 256;
/// Bytes put into one tenant's pipe in one round, of what waited for room, at least if there are as many.
const PUT: usize = 128 << 10;
/// What one tenant has taken in its turn, while others wait for theirs: bytes, and events.
const QUANTUM: i64 = 16 << 10;
const EVENTS_EACH: usize = 32;
/// A message, and a mark, cost this much beside their bytes, so that empty ones are not free.
const OVERHEAD: usize = PIECE as usize;
/// Rounds of an engine that is awake between looks at who asks whether it is there.
const ASKED_EVERY: u32 = 64;
/// Rounds in which a daemon that ends takes what was sent before, beside one for each tenant: 32 MiB.
const LAST_ROUNDS: usize = 64;

/// What is left of a round.
struct Left {
    bytes: usize,
    messages: usize,
    events: usize,
}

impl Left {
    const fn is_none(&self) -> bool {
        self.bytes == 0 || self.messages == 0 || self.events == 0
    }
}

impl<G: Gate> Tenants<G> {
    /// Looks at every tenant, those that did little first, and goes on in turn while there is more and the round is not full.
    pub(super) fn gather(&mut self) {
        let woke = std::mem::take(&mut self.is_dozing);
        self.until_asked = self.until_asked.saturating_sub(1);
        if woke || self.until_asked == 0 {
            self.until_asked = ASKED_EVERY;
            let mut sides = self.tenants.iter().filter_map(|(_, tenant)| tenant.side.as_ref());
            self.is_asked = sides.any(|side| side.is_asked());
        }
        if woke {
            self.tenants.iter_mut().filter_map(|(_, tenant)| tenant.side.as_mut()).for_each(|side| side.disarm());
            self.gate.hush();
        }
        self.store.gather();
        if self.gate.has_news() {
            self.hear();
        }
        self.is_relieved = false;
        if self.shares.is_over() {
            self.shares.judge(self.tenants.iter_mut().map(|(_, tenant)| &mut tenant.share));
        }
        let mut left = Left { bytes: BYTES, messages: MESSAGES, events: EVENTS };
        if self.gate.is_closing() {
            self.shares.stop_sorting();
        }
        if self.shares.grain().is_some() {
            self.serve_light(&mut left);
        }
        self.shares.decide();
        if !self.shares.is_express() {
            self.serve_rest(&mut left);
        }
        if woke {
            for &key in &self.served {
                if std::mem::take(&mut self.tenants[key].did) {
                    self.gate.meant_it(self.tenants[key].id);
                }
            }
        }
        if self.gate.is_closing() && !self.is_drained {
            self.last_rounds += 1;
            self.is_drained = !left.is_none() || self.last_rounds > LAST_ROUNDS + self.served.len();
        }
    }

    /// A turn of each of those that did little.
    fn serve_light(&mut self, left: &mut Left) {
        self.put_waiting(true, PUT);
        for at in (0..self.served.len()).rev() {
            let key = self.served[at];
            if !self.tenants[key].share.is_light {
                continue;
            }
            if let Err(why) = self.serve(key, left) {
                self.end(key, &why);
            }
        }
    }

    /// Turns of the others, or of all, if there are none to be served first.
    fn serve_rest(&mut self, left: &mut Left) {
        let grain = self.shares.grain().map(|grain| grain as usize);
        left.bytes = left.bytes.min(grain.unwrap_or(BYTES));
        self.put_waiting(false, grain.unwrap_or(PUT));
        let mut idle = 0;
        while idle < self.served.len() && !left.is_none() {
            if self.turn >= self.served.len() {
                self.turn = 0;
            }
            let key = self.served[self.turn];
            if grain.is_some() && self.tenants[key].share.is_light {
                (self.turn, idle) = (self.turn + 1, idle + 1);
                continue;
            }
            match self.serve(key, left) {
                // The round is full: it goes on here in the next.
                Ok(_) if left.is_none() => {}
                Ok(more) => {
                    self.turn += 1;
                    idle = if more { 0 } else { idle + 1 };
                }
                Err(why) => self.end(key, &why),
            }
        }
    }

    /// Puts what waits for room into the pipes of those that did little, or of the others.
    fn put_waiting(&mut self, light: bool, most: usize) {
        let sorts = self.shares.grain().is_some();
        for at in (0..self.served.len()).rev() {
            let key = self.served[at];
            let tenant = &mut self.tenants[key];
            if sorts && tenant.share.is_light != light {
                continue;
            }
            match tenant.put_waiting(most) {
                Err(why) => self.end(key, &why),
                Ok((put, less)) => {
                    self.shares.charge(&mut tenant.share, put as u64);
                    self.is_relieved |= less;
                }
            }
            if self.tenants.get_mut(key).is_some_and(Tenant::shows_something) {
                self.touch(key);
            }
        }
    }

    fn hear(&mut self) {
        while let Some(news) = self.gate.next() {
            match news {
                News::Came(arrival) => {
                    let key = self.tenants.insert(Tenant::new(*arrival));
                    self.served.push(key);
                }
                News::Gone(id) => {
                    let gone = self.served.iter().copied().find(|&key| self.tenants[key].id == id);
                    if let Some(key) = gone {
                        self.end(key, &Ended::Gone);
                    }
                }
                News::Report => {
                    let report = self.report();
                    self.gate.report(report);
                }
            }
        }
    }

    /// A turn of one tenant. Returns true if it may have more.
    fn serve(&mut self, key: usize, left: &mut Left) -> Result<bool, Ended> {
        let mut more = true;
        for _ in 0..EVENTS_EACH {
            if left.events == 0 {
                break;
            }
            let tenant = &mut self.tenants[key];
            let Some(side) = &mut tenant.side else { return Ok(false) };
            let event = side.next_event().map_err(Ended::Malformed)?;
            let looks = side.take_looks() * PIECE;
            tenant.deficit -= looks as i64;
            self.shares.charge(&mut tenant.share, looks);
            let Some(event) = event else {
                more = false;
                break;
            };
            left.events -= 1;
            tenant.did = true;
            self.on_event(key, event);
        }
        Ok(self.take_pieces(key, left)? || more)
    }

    /// Takes what a tenant sent. Returns true if it may have more.
    fn take_pieces(&mut self, key: usize, left: &mut Left) -> Result<bool, Ended> {
        let tenant = &mut self.tenants[key];
        if tenant.deficit <= 0 {
            tenant.deficit += QUANTUM;
        }
        let yields = self.shares.grain().is_some() && !tenant.share.is_light;
        let mut took = false;
        loop {
            let tenant = &mut self.tenants[key];
            if tenant.deficit <= 0 || left.bytes == 0 || left.messages == 0 {
                return Ok(true);
            }
            if yields && std::mem::replace(&mut took, true) && self.is_pressed() {
                // The rest can wait; whoever came cannot.
                left.bytes = 0;
                return Ok(true);
            }
            let tenant = &mut self.tenants[key];
            let piece = tenant.peek()?;
            if tenant.shows_something() {
                self.touch(key);
            }
            let tenant = &mut self.tenants[key];
            let Some(piece) = piece else {
                // Who has nothing saves nothing up.
                tenant.deficit = 0;
                return Ok(false);
            };
            let known = tenant.flows[piece.slot as usize];
            let flow = self.flows.get_mut(known as usize);
            if piece.begins && flow.as_ref().is_some_and(|flow| flow.taken >= flow.room + TAIL) {
                return Err(Ended::Overran { slot: piece.slot });
            }
            let cost = piece.len + OVERHEAD;
            tenant.deficit -= cost as i64;
            tenant.did = true;
            self.shares.charge(&mut tenant.share, cost as u64);
            left.bytes = left.bytes.saturating_sub(cost);
            left.messages -= 1;
            let Taken::Message(message) = tenant.take(piece, &mut self.store)? else { continue };
            let units = cost_in_units(message.len());
            match flow {
                Some(flow) => {
                    flow.taken += units;
                    flow.queue.push_back(message);
                    self.hint(known);
                }
                None => tenant.let_go(units),
            }
        }
    }

    fn on_event(&mut self, key: usize, event: Event) {
        match event {
            Event::Connect { slot, peer, options } => {
                let tenant = &mut self.tenants[key];
                if tenant.takes_flows() {
                    let flow = self.insert_flow(key, slot, peer, options);
                    self.hints.push_back(Hint::Connect(Slot(flow), peer));
                    return;
                }
                tenant.counters.refused += 1;
                if let Some(side) = &mut tenant.side {
                    side.set_state(slot, FlowState::CONNECTING.closed(CloseReason::NoRoom));
                    side.release(slot);
                    self.touch(key);
                }
            }
            Event::Flow { slot } => {
                let flow = self.tenants[key].flows[slot as usize];
                if flow != NONE {
                    self.hint(flow);
                }
            }
            Event::Listen { listener, port, options, .. } => {
                if let Err(error) = self.may_listen(key, port).and_then(|()| self.claim(key, port)) {
                    let tenant = &mut self.tenants[key];
                    tenant.counters.refused += 1;
                    if let Some(side) = &mut tenant.side {
                        // Its slot is in use until the application drops it.
                        side.set_listening(listener, Err(&error));
                        self.touch(key);
                    }
                    return;
                }
                let slot = self.insert_listener(key, listener, options);
                self.listeners[slot as usize].claimed = (port != 0).then_some(port);
                self.hints.push_back(Hint::Listen(ListenSlot(slot), port));
            }
            Event::Unlisten { listener } => {
                let tenant = &mut self.tenants[key];
                let slot = tenant.listeners[listener as usize];
                if let Some(listening) = self.listeners.get_mut(slot as usize) {
                    listening.is_dropped = true;
                    self.hints.push_back(Hint::Unlisten(ListenSlot(slot)));
                } else if let Some(side) = &mut tenant.side {
                    // The engine has forgotten it, or never knew it: it was refused.
                    side.unlisten(listener);
                    self.touch(key);
                }
            }
        }
    }

    fn may_listen(&self, key: usize, port: u16) -> io::Result<()> {
        let tenant = &self.tenants[key];
        let refused = |kind, text| Err(io::Error::new(kind, text));
        if !tenant.quota.ports.contains(port) {
            let asked = if port == 0 { "any free port".to_owned() } else { format!("port {port}") };
            let text =
                format!("the daemon does not let this application listen on {asked}, only on: {}", tenant.quota.ports);
            return refused(io::ErrorKind::PermissionDenied, text);
        }
        // At another engine it listens there already.
        if !tenant.takes_listeners() && !self.claims.has(port, tenant.id) {
            let text = format!("the daemon lets this application have {} listeners", tenant.quota.listeners);
            return refused(io::ErrorKind::QuotaExceeded, text);
        }
        Ok(())
    }

    /// Takes a port for an application, and counts it: 0 for what it will be.
    fn claim(&self, key: usize, port: u16) -> io::Result<()> {
        let Tenant { id, account, .. } = &self.tenants[key];
        let first = if port == 0 { Some(true) } else { self.claims.claim(port, *id) };
        let first = first.ok_or_else(|| in_use(port))?;
        account.listeners.change(0, first.into());
        Ok(())
    }

    fn insert_listener(&mut self, key: usize, slot: u32, options: FlowOptions) -> u32 {
        let listening = Listening {
            tenant: key,
            slot,
            port: None,
            claimed: None,
            is_given_up: false,
            options,
            is_known: false,
            is_dropped: false,
            is_orphan: false,
        };
        let listener = self.listeners.insert(listening) as u32;
        let tenant = &mut self.tenants[key];
        tenant.open_listeners += 1;
        tenant.listeners[slot as usize] = listener;
        listener
    }
}

/// Of a port that was claimed by another application.
pub(super) fn in_use(port: u16) -> io::Error {
    let text = format!("another application of the daemon listens on port {port}");
    io::Error::new(io::ErrorKind::AddrInUse, text)
}
