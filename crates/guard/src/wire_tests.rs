//! The packets, byte for byte: a guard and an agent of different versions must understand each other.

use super::*;

fn command() -> ServerCommand {
    ServerCommand {
        arguments: vec![b"/bin/postgres".to_vec(), b"-D".to_vec(), b"".to_vec()],
        environment: vec![b"A=b".to_vec()],
        directory: b"/d".to_vec(),
        primary: true,
    }
}

#[test]
fn requests_are_these_bytes() {
    let start = command().encode(7).unwrap();
    let cases: [(&[u8], Request<'_>); 9] = [
        (&[1, 1, 7, 0, 0, 0], Request::Status),
        (&[1, 3, 7, 0, 0, 0, 10], Request::Signal(10)),
        (
            &[1, 4, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            Request::Extend { epoch: 5, deadline: 256 },
        ),
        (&[1, 5, 7, 0, 0, 0, 0], Request::Disarm(Disarm::Paused)),
        (&[1, 5, 7, 0, 0, 0, 1], Request::Disarm(Disarm::Standby)),
        (&[1, 5, 7, 0, 0, 0, 2], Request::Disarm(Disarm::Stopped)),
        (&[1, 6, 7, 0, 0, 0], Request::Kill),
        (&[1, 7, 7, 0, 0, 0], Request::Ready),
        (b"\x01\x02\x07\0\0\0\x01\x03\0\x01\0/d\0/bin/postgres\0-D\0\0A=b\0", Request::decode(&start).1.unwrap()),
    ];
    for (bytes, request) in cases {
        assert_eq!(request.encode(7), bytes, "{request:?}");
        assert_eq!(Request::decode(bytes), (7, Ok(request)));
    }
}

#[test]
fn a_command_line_comes_through() {
    let packet = command().encode(1).unwrap();
    let (_, Ok(Request::Start(start))) = Request::decode(&packet) else { panic!("no start") };
    assert!(start.primary);
    assert_eq!(start.arguments(), 3);
    assert_eq!(start.strings().collect::<Vec<_>>(), [c"/d", c"/bin/postgres", c"-D", c"", c"A=b"]);
}

#[test]
fn replies_are_these_bytes() {
    let status = Status {
        inner: 2,
        outer: 1,
        postmaster: Some(Postmaster { pid: 3, start_ticks: 4 }),
        tree_alive: true,
        killing: false,
        deadline: Some(9),
        epoch: 8,
        paused: false,
        rights: Rights { fifo: true, memory_locked: false, oom_exempt: false, cgroup: true },
        last_exit: Some(ServerExit { pid: 5, status: 6, enforced: true }),
    };
    let exit = ServerExit { pid: 3, status: 0x100, enforced: false };
    let cases: [(&[u8], Reply); 6] = [
        (
            &[
                1, 64, 7, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0b1_0101, 0b1001, 8, 0,
                0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0,
            ],
            Reply::Status(status),
        ),
        (&[1, 65, 7, 0, 0, 0], Reply::Ack),
        (&[1, 66, 7, 0, 0, 0, 12, 2, 0, 0, 0], Reply::Refused(Refusal::System, 2)),
        (
            &[1, 67, 7, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
            Reply::Started(Postmaster { pid: 3, start_ticks: 4 }),
        ),
        (&[1, 96, 7, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0, 0], Reply::ServerExited(exit)),
        (&[1, 97, 7, 0, 0, 0], Reply::TreeEmpty),
    ];
    for (bytes, reply) in cases {
        assert_eq!(reply.encode(7).bytes(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(bytes), Ok((7, reply)));
    }
}

#[test]
fn every_refusal_has_its_own_number() {
    for refusal in Refusal::ALL {
        assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
    }
    assert_eq!(Refusal::from_code(0), None);
    assert_eq!(Refusal::from_code(200), None);
}

#[test]
fn what_is_malformed_is_said_to_be() {
    let cases: [(&[u8], u32, WireError); 8] = [
        (&[], 0, WireError::Body(0)),
        (&[1, 1], 0, WireError::Body(1)),
        (&[2, 1, 7, 0, 0, 0], 7, WireError::Version(2)),
        (&[1, 99, 7, 0, 0, 0], 7, WireError::Kind(99)),
        (&[1, 5, 7, 0, 0, 0, 3], 7, WireError::Body(5)),
        (&[1, 4, 7, 0, 0, 0, 1], 7, WireError::Body(4)),
        // One argument is promised, none follows; and a last string without its end.
        (&[1, 2, 7, 0, 0, 0, 0, 1, 0, 0, 0, b'/', 0], 7, WireError::Body(2)),
        (&[1, 2, 7, 0, 0, 0, 0, 1, 0, 0, 0, b'/', 0, b'p'], 7, WireError::Body(2)),
    ];
    for (bytes, sequence, error) in cases {
        assert_eq!(Request::decode(bytes), (sequence, Err(error)), "{bytes:?}");
    }
}

#[test]
fn a_command_line_that_cannot_be_sent_is_an_error() {
    let long = ServerCommand { directory: vec![b'x'; MAX_PACKET], ..command() };
    assert_eq!(long.encode(1), Err(WireError::TooLong));
    let zero = ServerCommand { directory: b"a\0b".to_vec(), ..command() };
    assert_eq!(zero.encode(1), Err(WireError::Body(2)));
    let many = ServerCommand { arguments: vec![b"a".to_vec(); MAX_ARGUMENTS], ..command() };
    assert_eq!(many.encode(1), Err(WireError::Body(2)));
}
