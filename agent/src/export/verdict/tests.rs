use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PROVEN: Attempt = Attempt {
    items: 10,
    gzip_unproven: false,
};
const UNPROVEN: Attempt = Attempt {
    items: 10,
    gzip_unproven: true,
};

fn http(status: u16, retry_after: Option<Duration>) -> Reply {
    Reply::Http {
        status,
        retry_after,
        message: String::new(),
    }
}

fn grpc(code: Code, retry_info: Option<Duration>) -> Reply {
    Reply::Grpc {
        code,
        retry_info,
        message: String::new(),
    }
}

#[test]
fn http_statuses() {
    let retry = Verdict::Retry { after: None };
    let table = [
        (429, retry.clone()),
        (502, retry.clone()),
        (503, retry.clone()),
        (504, retry),
        (413, Verdict::Split),
        (400, Verdict::Drop("bad_request")),
        (415, Verdict::Drop("bad_request")),
        (408, Verdict::Drop("bad_request")),
        (500, Verdict::Drop("server_error")),
        (501, Verdict::Drop("server_error")),
        (301, Verdict::Refused("redirect")),
        (307, Verdict::Refused("redirect")),
        (401, Verdict::Refused("unauthorized")),
        (403, Verdict::Refused("unauthorized")),
        (404, Verdict::Refused("not_found")),
    ];
    for (status, verdict) in table {
        assert_eq!(decide(&http(status, None), PROVEN), verdict, "{status}");
    }
    assert_eq!(
        decide(&http(503, Some(SECOND)), PROVEN),
        Verdict::Retry {
            after: Some(SECOND)
        }
    );
    // Retry-After makes nothing retryable that is not.
    assert_eq!(
        decide(&http(500, Some(SECOND)), PROVEN),
        Verdict::Drop("server_error")
    );
    for status in [400, 415] {
        assert_eq!(decide(&http(status, None), UNPROVEN), Verdict::Uncompressed);
    }
    assert_eq!(
        decide(&http(404, None), UNPROVEN),
        Verdict::Refused("not_found")
    );
}

#[test]
fn grpc_statuses() {
    let retry = Verdict::Retry { after: None };
    let table = [
        (Code::Ok, Verdict::Accepted { rejected: 0 }),
        (Code::Cancelled, retry.clone()),
        (Code::Unknown, Verdict::Drop("server_error")),
        (Code::InvalidArgument, Verdict::Drop("bad_request")),
        (Code::DeadlineExceeded, retry.clone()),
        (Code::NotFound, Verdict::Refused("not_found")),
        (Code::AlreadyExists, Verdict::Drop("bad_request")),
        (Code::PermissionDenied, Verdict::Refused("unauthorized")),
        (Code::ResourceExhausted, Verdict::Split),
        (Code::FailedPrecondition, Verdict::Drop("bad_request")),
        (Code::Aborted, retry.clone()),
        (Code::OutOfRange, retry.clone()),
        (Code::Unimplemented, Verdict::Refused("not_found")),
        (Code::Internal, Verdict::Drop("server_error")),
        (Code::Unavailable, retry.clone()),
        (Code::DataLoss, retry),
        (Code::Unauthenticated, Verdict::Refused("unauthorized")),
    ];
    for (code, verdict) in table {
        assert_eq!(decide(&grpc(code, None), PROVEN), verdict, "{code:?}");
    }
    let after = Verdict::Retry {
        after: Some(SECOND),
    };
    assert_eq!(
        decide(&grpc(Code::ResourceExhausted, Some(SECOND)), PROVEN),
        after
    );
    assert_eq!(
        decide(&grpc(Code::Unavailable, Some(SECOND)), PROVEN),
        after
    );
    assert_eq!(
        decide(&grpc(Code::Internal, Some(SECOND)), PROVEN),
        Verdict::Drop("server_error")
    );
    assert_eq!(
        decide(&grpc(Code::Unimplemented, None), UNPROVEN),
        Verdict::Uncompressed
    );
}

#[test]
fn no_answer_is_always_retried() {
    for reply in [Reply::Transport("reset".into()), Reply::Deadline(SECOND)] {
        assert_eq!(decide(&reply, UNPROVEN), Verdict::Retry { after: None });
    }
    assert_eq!(
        decide(&Reply::TooLong, PROVEN),
        Verdict::Drop("response_too_long")
    );
}

#[test]
fn partial_success_counts_at_most_what_was_sent() {
    for (claimed, counted) in [
        (0, 0),
        (3, 3),
        (10, 10),
        (11, 10),
        (i64::MAX, 10),
        (-1, 0),
        (i64::MIN, 0),
    ] {
        let reply = Reply::Accepted {
            rejected: claimed,
            message: String::new(),
        };
        assert_eq!(
            decide(&reply, PROVEN),
            Verdict::Accepted { rejected: counted },
            "{claimed}"
        );
    }
}

#[test]
fn retry_after_is_read_and_capped() {
    let now = Duration::from_secs(1_700_000_000); // Tue, 14 Nov 2023 22:13:20 GMT
    let table = [
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("0", Some(0)),
        ("1000000000", Some(300)),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
        ("99999999999999999999999", Some(300)),
        ("Tue, 14 Nov 2023 22:13:30 GMT", Some(10)),
        ("Tue, 14 Nov 2023 22:13:10 GMT", None),
        ("Tue, 14 Nov 2034 22:13:10 GMT", Some(300)),
    ];
    for (header, seconds) in table {
        assert_eq!(
            retry_after(header, now),
            seconds.map(Duration::from_secs),
            "{header}"
        );
    }
}

#[test]
fn backoff_doubles_below_its_bounds() {
    for (failures, bound_s) in [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 4),
        (4, 8),
        (5, 16),
        (6, 30),
        (7, 30),
        (u32::MAX, 30),
    ] {
        let bound = Duration::from_secs(bound_s);
        let bound_ms = bound_s * 1000;
        assert_eq!(backoff(failures, None, 0), Duration::ZERO);
        assert_eq!(backoff(failures, None, bound_ms), bound, "{failures}");
        assert_eq!(
            backoff(failures, None, bound_ms + 1),
            Duration::ZERO,
            "{failures}"
        );
        assert!(backoff(failures, None, u64::MAX) <= bound);
    }
    // Never earlier than asked, at most a second later, and no longer than five minutes and a second.
    assert_eq!(backoff(9, Some(SECOND * 7), 0), SECOND * 7);
    assert_eq!(backoff(9, Some(SECOND * 7), 1000), SECOND * 8);
    assert_eq!(backoff(1, Some(Duration::MAX), 0), RETRY_AFTER_MAX);
}

#[test]
fn a_collectors_text_is_cut_and_escaped() {
    let reply = Reply::Grpc {
        code: Code::Internal,
        retry_info: None,
        message: format!("\u{1b}[31m\n{}", "é".repeat(999)),
    };
    let shown = reply.describe();
    assert!(
        shown.starts_with("gRPC status Internal: \\u{1b}[31m\\né"),
        "{shown}"
    );
    assert!(shown.len() < 320, "{}", shown.len());
    assert!(!shown.chars().any(char::is_control));
}
