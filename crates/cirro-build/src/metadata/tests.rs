use super::*;

#[test]
fn ports_have_a_protocol_and_may_be_ranges() {
    assert_eq!(port_range("80").unwrap(), ["80/tcp"]);
    assert_eq!(port_range("53/UDP").unwrap(), ["53/udp"]);
    assert_eq!(port_range("8000-8002/sctp").unwrap(), ["8000/sctp", "8001/sctp", "8002/sctp"]);
    for text in ["", "http", "80/icmp", "70000", "9-8", "-", "80-"] {
        assert!(port_range(text).is_err(), "{text}");
    }
}

#[test]
fn durations_are_read_as_go_writes_them() {
    let cases = [
        ("0", 0),
        ("30s", 30_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("2ms", 2_000_000),
    ];
    for (text, nanoseconds) in cases {
        assert_eq!(duration(text), Some(nanoseconds), "{text}");
    }
    for text in ["", "5", "s", "1x", "1s2", "-1s", "1..2s", "99999999999999h"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn signals_are_names_or_numbers() {
    for text in ["9", "64", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-14", "WINCH"] {
        assert!(is_signal(text), "{text}");
    }
    for text in ["0", "65", "", "SIG", "SIGNOTHING", "RTMIN+16", "RTMAX-15", "-9"] {
        assert!(!is_signal(text), "{text}");
    }
}
