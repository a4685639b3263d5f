//! Where a message or a request belongs, in the headers `traceparent` and `tracestate`.
//! Source: <https://www.w3.org/TR/trace-context/#trace-context-http-headers-format>
//!
//! Any publisher can set them. One that is not exactly as specified counts as absent, and a new trace
//! begins.

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Version 00, with its dashes. A later version may have more behind it.
const LENGTH: usize = 55;
/// Longest `traceparent` that is read, of a later version.
const MAX_PARENT: usize = 256;
/// Longest `tracestate` that is passed on, the least that the specification asks for.
const MAX_STATE: usize = 512;

pub(super) fn read(parent: &[u8], state: Option<&[u8]>) -> Option<SpanContext> {
    let (version, rest) = parent.split_at_checked(2).filter(|_| parent.len() <= MAX_PARENT)?;
    let (of_one, behind) = rest.split_at_checked(LENGTH - 2)?;
    let fits = match version {
        b"ff" => false,
        b"00" => behind.is_empty(),
        _ => behind.first().is_none_or(|byte| *byte == b'-'),
    };
    let dashes = [0, 33, 50].iter().all(|at| of_one[*at] == b'-');
    if !fits || !dashes {
        return None;
    }
    let [_version] = hex(version)?;
    let trace = TraceId::from_bytes(hex(&of_one[1..33])?);
    let span = SpanId::from_bytes(hex(&of_one[34..50])?);
    let [flags] = hex(&of_one[51..])?;
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    let state = state.and_then(read_state).unwrap_or_default();
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

fn read_state(state: &[u8]) -> Option<TraceState> {
    let text = std::str::from_utf8(state).ok()?;
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (plain && text.len() <= MAX_STATE).then(|| TraceState::from_str(text).ok())?
}

/// Lower case alone, as the specification says.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let mut bytes = [0; N];
    let valid = digits.iter().all(lower) && hex::decode_to_slice(digits, &mut bytes).is_ok();
    valid.then_some(bytes)
}

/// The text of `traceparent`.
pub(super) fn parent(context: &SpanContext) -> String {
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
    format!("00-{trace}-{span}-{flags:02x}")
}

/// The text of `tracestate`, if there is any.
pub(super) fn state(context: &SpanContext) -> Option<String> {
    Some(context.trace_state().header()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn again(parent: &str, state: Option<&str>) -> Option<(String, Option<String>)> {
        let context = read(parent.as_bytes(), state.map(str::as_bytes))?;
        Some((super::parent(&context), super::state(&context)))
    }

    #[test]
    fn what_is_as_specified_is_passed_on() {
        assert_eq!(again(PARENT, None), Some((PARENT.to_owned(), None)));
        let state = Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert_eq!(again(PARENT, state).unwrap().1.as_deref(), state);
        // Of a later version what is known of this one, and the flag that is known.
        let later = format!("cc-{}ff-more", &PARENT[3..53]);
        assert_eq!(again(&later, None).unwrap().0, PARENT);
        let unsampled = PARENT.replace("-01", "-00");
        assert_eq!(again(&unsampled, None).unwrap().0, unsampled);
    }

    #[test]
    fn anything_else_counts_as_absent() {
        let long = format!("cc{}-{}", &PARENT[2..], "a".repeat(10_000));
        let wrong = [
            "",
            "00",
            &PARENT[1..],
            &PARENT[..54],
            &format!("{PARENT}-"),
            &format!("{PARENT}0"),
            &PARENT.to_uppercase(),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("00-4", "ff-4"),
            &PARENT.replace("00-4", "0x-4"),
            &PARENT.replace("00-4", "+0-4"),
            &PARENT.replace('-', "_"),
            &PARENT.replace("4bf9", "4bé"),
            &format!(" {PARENT}"),
            &format!("cc{}x", &PARENT[2..]),
            &long,
        ];
        for parent in wrong {
            assert_eq!(again(parent, None), None, "{parent}");
        }
        assert_eq!(read(&[0xff; LENGTH], None), None);
    }

    #[test]
    fn a_state_that_is_none_leaves_the_parent() {
        let long = format!("a={}", "b".repeat(MAX_STATE));
        for state in ["nothing", "A=b", "a=b\nc: d", "a=\u{e9}", &long] {
            assert_eq!(again(PARENT, Some(state)), Some((PARENT.to_owned(), None)), "{state}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_strangers_are_read_or_not_and_what_is_read_is_well_formed(
            parent in prop::collection::vec(any::<u8>(), 0..80),
            state in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            if let Some(context) = read(&parent, Some(&state)) {
                prop_assert_eq!(super::parent(&context).len(), LENGTH);
            }
        }

        #[test]
        fn a_parent_with_one_byte_changed_is_another_or_none(at in 0..LENGTH, byte: u8) {
            let mut bytes = PARENT.as_bytes().to_vec();
            bytes[at] = byte;
            if let Some(context) = read(&bytes, None) {
                let text = super::parent(&context);
                // The version becomes ours, and of the flags the one that is known stays.
                prop_assert_eq!(&text.as_bytes()[2..53], &bytes[2..53]);
            }
        }

        #[test]
        fn what_is_written_is_read_again(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let flags = TraceFlags::default().with_sampled(sampled);
            let (trace, span) = (TraceId::from(trace), SpanId::from(span));
            let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
            prop_assert_eq!(read(super::parent(&context).as_bytes(), None), Some(context));
        }
    }
}
