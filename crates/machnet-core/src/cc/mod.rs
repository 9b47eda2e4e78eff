//! Congestion control: how many bytes a flow may have in flight, and how they follow each other
//! (`docs/spec/flow.md#congestion`).
//!
//! | controller | for | signal |
//! |---|---|---|
//! | [`Cubic`] | sockets: paths shared with the world | loss, and delay while it starts |
//! | [`Swift`] | polled drivers: datacentre paths | delay, and heavy loss |
//! | [`Fixed`] | measurements | none |

mod cubic;
mod fixed;
mod hystart;
mod swift;

use machnet_channel::Congestion;

pub use cubic::Cubic;
pub use fixed::Fixed;
pub use swift::Swift;

use crate::Instant;
use crate::time::Span;

/// Initial window in packets: a datacentre's, where RFC 9002's 10 is the Internet's. An eighth of the LCD's receive
/// ring.
const INITIAL_PACKETS: u32 = 32;
/// More than any path here holds, bytes; keeps arithmetic and queues bounded.
const MAX_WINDOW: u64 = 16 << 20;

/// What one acknowledgement brought.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// When it arrived.
    pub now: Instant,
    /// Bytes of packets acknowledged for the first time.
    pub bytes: u64,
    /// Those of them that were sent when the window, not the application, held the sender back: only they are a reason
    /// to widen it.
    pub limited: u64,
    /// When the newest of the packets was sent.
    pub newest: Instant,
    /// A round trip, if the acknowledgement gave one; without what the peer says its host waited.
    pub rtt: Option<Span>,
    /// How much of it may be the acknowledgement's waiting for our own engine.
    pub gap: Span,
    /// The smoothed round trip.
    pub smoothed: Span,
    /// The smallest round trip of late.
    pub min: Span,
}

/// What was declared lost at once.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// When.
    pub now: Instant,
    /// How many packets.
    pub packets: u32,
    /// When the newest of them was sent.
    pub newest: Instant,
    /// Nothing arrived for so long that the path is to be taken for another one (RFC 9002 §7.6).
    pub persistent: bool,
    /// The smoothed round trip.
    pub smoothed: Span,
}

/// A congestion controller of one flow. It sees sizes and times, never packets, and reads no clock.
pub trait Controller {
    /// Packets were acknowledged.
    fn on_ack(&mut self, acked: &Acked);

    /// Packets were declared lost.
    fn on_loss(&mut self, lost: &Lost);

    /// Whatever was declared lost since the window was last reduced has arrived after all.
    fn on_undo(&mut self);

    /// The flow sends again, after nothing was in flight for `idle`, several `pto`s.
    fn on_restart(&mut self, idle: Span, pto: Span);

    /// Packets have at most `bytes` from now on. The window stays what it is in bytes; what is counted in packets, such as
    /// its growth, is counted in the new ones.
    fn set_packet(&mut self, bytes: u32);

    /// Bytes that may be in flight; at least one packet.
    fn window(&self) -> u64;

    /// If the window is less than a packet: which part of one, from 0 to 1. Then one packet is sent per so many round trips.
    fn fraction(&self) -> Option<f64> {
        None
    }

    /// How much faster than one window per round trip packets may follow each other; `None`: as they like.
    fn pacing_gain(&self) -> Option<f64>;
}

/// The controller of a flow: inline, for there may be a hundred thousand.
#[derive(Debug)]
pub(crate) struct AnyController {
    which: Which,
    /// Its window, which is looked at many times for each packet.
    window: u64,
}

#[derive(Debug)]
enum Which {
    Cubic(Cubic),
    Swift(Swift),
    Fixed(Fixed),
}

macro_rules! each {
    ($which:expr, $controller:ident => $call:expr) => {
        match $which {
            Which::Cubic($controller) => $call,
            Which::Swift($controller) => $call,
            Which::Fixed($controller) => $call,
        }
    };
}

/// What changes the window.
macro_rules! change {
    ($self:ident, $controller:ident => $call:expr) => {
        $self.window = each!(&mut $self.which, $controller => {
            $call;
            $controller.window()
        })
    };
}

impl AnyController {
    /// `packet`: the longest packet, bytes.
    pub(crate) fn new(choice: Congestion, packet: u32) -> Self {
        let which = match choice {
            Congestion::Swift => Which::Swift(Swift::new(packet)),
            Congestion::Fixed { bytes } => Which::Fixed(Fixed::new(bytes, packet)),
            _ => Which::Cubic(Cubic::new(packet)),
        };
        let window = each!(&which, controller => controller.window());
        Self { which, window }
    }
}

impl Controller for AnyController {
    fn on_ack(&mut self, acked: &Acked) {
        change!(self, controller => controller.on_ack(acked));
    }

    fn on_loss(&mut self, lost: &Lost) {
        change!(self, controller => controller.on_loss(lost));
    }

    fn on_undo(&mut self) {
        change!(self, controller => controller.on_undo());
    }

    fn on_restart(&mut self, idle: Span, pto: Span) {
        change!(self, controller => controller.on_restart(idle, pto));
    }

    fn set_packet(&mut self, bytes: u32) {
        change!(self, controller => controller.set_packet(bytes));
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn fraction(&self) -> Option<f64> {
        each!(&self.which, controller => controller.fraction())
    }

    fn pacing_gain(&self) -> Option<f64> {
        each!(&self.which, controller => controller.pacing_gain())
    }
}

/// A window after idleness: halved for every `pto`, as Linux does, down to the initial one (RFC 5681 §4.1 would go there
/// at once). What is known of the path fades with time.
fn decayed(window: f64, initial: f64, idle: Span, pto: Span) -> f64 {
    let halvings = idle.as_secs_f64() / pto.as_secs_f64().max(1e-6);
    (window * (-halvings).exp2()).max(window.min(initial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fades_to_the_initial_one_and_no_further() {
        let ms = Span::from_millis;
        assert!((decayed(64.0, 10.0, ms(2), ms(1)) - 16.0).abs() < 1e-9);
        assert!((decayed(64.0, 10.0, ms(2000), ms(1)) - 10.0).abs() < 1e-9);
        assert!((decayed(4.0, 10.0, ms(2000), ms(1)) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn longer_packets_leave_the_window_and_quicken_its_growth() {
        let ms = Span::from_millis;
        for choice in [Congestion::Cubic, Congestion::Swift, Congestion::Fixed { bytes: 1 << 16 }] {
            let [mut short, mut long] = [(); 2].map(|()| AnyController::new(choice, 1000));
            let start = short.window();
            long.set_packet(8000);
            assert_eq!(long.window(), start);
            for controller in [&mut short, &mut long] {
                // Out of slow start, then some round trips in which windows were full.
                let (now, newest) = (Instant::ZERO + ms(1000), Instant::ZERO + ms(999));
                controller.on_loss(&Lost { now, packets: 99, newest, persistent: false, smoothed: ms(1) });
                for round in 1..=20 {
                    let now = now + ms(1) * round;
                    let (newest, bytes) = (now - Span::from_micros(900), controller.window());
                    let rtt = Some(ms(1));
                    let (gap, smoothed, min) = (Span::ZERO, ms(1), ms(1));
                    controller.on_ack(&Acked { now, bytes, limited: bytes, newest, rtt, gap, smoothed, min });
                }
            }
            let [short, long] = [short, long].map(|controller| controller.window());
            match choice {
                Congestion::Fixed { .. } => assert_eq!(short, long),
                _ => assert!(long > short + 20 * 2000, "{choice:?}: {short} and {long} of {start}"),
            }
            // Shorter again: nothing is lost but what rounding takes.
            let mut back = AnyController::new(choice, 8000);
            back.set_packet(1000);
            assert_eq!(back.window(), AnyController::new(choice, 8000).window());
        }
    }

    #[test]
    fn controllers_are_small() {
        assert!(size_of::<AnyController>() <= 160, "{}", size_of::<AnyController>());
    }
}
