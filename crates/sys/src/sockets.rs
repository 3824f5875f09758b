//! What the kernel says of a process's TCP connections.

use std::fs;
use std::io;

use rustix::process::Pid;

/// Numbers of the column `tr` of `/proc/net/tcp`: which timer of a connection runs (kernel documentation, "The proc/net/tcp and
/// proc/net/tcp6 variables").
const RETRANSMIT: &str = "01";
const ZERO_WINDOW_PROBE: &str = "04";

/// Whether the other end of one of the process's TCP connections takes nothing of what was sent: it has closed its window, or has
/// left a retransmission unanswered. `NotFound` when the process is gone, `PermissionDenied` when it is another user's. Allocates.
pub fn is_stuck(pid: Pid) -> io::Result<bool> {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let mut inodes = Vec::new();
    for entry in fs::read_dir(format!("{process}/fd"))? {
        // A descriptor may be closed while they are listed.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let inode = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.extend(inode.map(str::to_owned));
    }
    for table in ["tcp", "tcp6"] {
        // Without IPv6 there is no second table.
        let lines = match fs::read_to_string(format!("{process}/net/{table}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => continue,
            lines => lines?,
        };
        if lines.lines().any(|line| stuck_inode(line).is_some_and(|stuck| inodes.iter().any(|inode| inode == stuck))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The inode of a line's connection, when its other end takes nothing.
fn stuck_inode(line: &str) -> Option<&str> {
    // sl local_address rem_address st tx_queue:rx_queue tr:when retrnsmt uid timeout inode
    let mut fields = line.split_ascii_whitespace().skip(5);
    let (timer, _) = fields.next()?.split_once(':')?;
    let unanswered = u32::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(2)?;
    (timer == ZERO_WINDOW_PROBE || timer == RETRANSMIT && unanswered > 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::{is_stuck, stuck_inode};
    use crate::process::own_pid;

    #[test]
    fn a_connection_is_stuck_while_its_other_end_reads_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        assert!(!is_stuck(own_pid()).unwrap(), "nothing was sent");
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let full = loop {
            match sender.write(&[0; 8192]) {
                Ok(bytes) => sent += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        wait_until(true);
        receiver.read_exact(&mut vec![0; sent]).unwrap();
        wait_until(false);
    }

    fn wait_until(stuck: bool) {
        // The kernel notices within a fraction of a second.
        for _ in 0..4000 {
            if is_stuck(own_pid()).unwrap() == stuck {
                return;
            }
            // waits: a short pause between two looks; the kernel gives no event
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still {}", !stuck);
    }

    #[test]
    fn a_retransmission_counts_when_it_is_unanswered() {
        let line = |timer: &str, retransmitted: &str| {
            let queues = "0039F200:00000000";
            let line =
                format!("2: 0100007F:D73E 0100007F:E4B9 01 {queues} {timer}:00000014 {retransmitted} 0 0 4002107 2");
            stuck_inode(&line).map(str::to_owned)
        };
        assert_eq!(line("01", "00000000"), None);
        assert_eq!(line("02", "00000003"), None);
        assert_eq!(line("01", "00000001").as_deref(), Some("4002107"));
        assert_eq!(line("04", "00000000").as_deref(), Some("4002107"));
        assert_eq!(stuck_inode("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"), None);
    }
}
