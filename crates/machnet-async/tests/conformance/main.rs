//! What code written for `AsyncRead` and `AsyncWrite` relies on, asked of every transport alike. Where they differ, the
//! difference is a constant of [`Transport`], and a row of `FlowStream`'s documentation.

#![allow(unreachable_pub, reason = "modules of a test")]

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod endings;
mod killed;
mod steps;
mod transports;

/// Every case, for one transport.
macro_rules! cases {
    ($transport:ident) => {
        cases! { crate::transports::$transport:
            steps: vectored_is_constant one_byte_at_a_time empty_reads_take_nothing empty_writes_write_nothing
                vectored_writes_are_a_prefix_in_order a_pending_read_is_woken a_pending_write_is_woken
                what_was_accepted_arrives_without_another_call a_write_given_up_wrote_all_or_nothing
                a_reader_that_does_not_read_stops_the_writer requests_and_answers_without_a_flush,
            endings: everything_then_the_end half_close shutdown_twice write_after_shutdown
                the_end_wakes_a_pending_read bytes_of_a_dropped_peer_are_read a_dropped_peer_ends_writes
                shutdown_sends_what_was_buffered,
            bulk: sixty_four_mebibytes both_directions_at_once copied_both_ways halves_in_two_tasks
        }
    };
    ($transport:ty: $($file:ident: $($case:ident)*),*) => { $($(
        #[test]
        fn $case() {
            crate::support::run(crate::$file::$case::<$transport>);
        }
    )*)* };
}

mod tcp_stream {
    cases!(Tcp);
}
mod duplex {
    cases!(Duplex);
}
mod flow_stream {
    cases!(Flow);
}
mod inline_flow_stream {
    cases!(Inline);
}
mod flow_stream_over_daemons {
    cases!(Sidecar);
}
mod flow_stream_with_tiny_windows {
    cases!(TinyFlow);
}
