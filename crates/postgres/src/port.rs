//! Whether the server can listen where it shall, asked before a start: its own message is only in its log.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

use crate::ServerSpec;

/// Why the server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another program listens there.
    #[error(
        "port {port} on {host} is in use by another program: stop it, or set another port in postgresql.listen and \
         postgresql.connect_address"
    )]
    InUse {
        /// The address, as configured.
        host: String,
        /// The port.
        port: u16,
    },
    /// The address is not this host's, or the port is not for this user.
    #[error("cannot listen on {host} port {port}: correct postgresql.listen")]
    Refused {
        /// The address, as configured.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens for a moment on each address in `listen_addresses`. Only for a server that does not run. Names are looked
/// up, which can take as long as the resolver's time-out.
pub fn check_port(spec: &ServerSpec) -> Result<(), PortError> {
    let port = spec.port;
    for host in spec.listen_addresses.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let address = if host == "*" { "0.0.0.0" } else { host };
        let host = host.to_owned();
        let found = (address, port).to_socket_addrs().and_then(|addresses| listen(&addresses.collect()));
        match found {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => return Err(PortError::InUse { host, port }),
            Err(source) => return Err(PortError::Refused { host, port, source }),
        }
    }
    Ok(())
}

/// Listens on all addresses of a name at once. One of a family that this host lacks does not matter: the server, too, needs only
/// one of them. One that is in use does: the server would do without it, and clients would reach the other program.
fn listen(addresses: &BTreeSet<SocketAddr>) -> io::Result<()> {
    let (listening, failed): (Vec<_>, Vec<_>) = addresses.iter().map(TcpListener::bind).partition(Result::is_ok);
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let errors = failed.into_iter().filter_map(Result::err).filter(|error| in_use(error) || listening.is_empty());
    // The first that is in use, or the first.
    match errors.reduce(|one, other| if in_use(&other) && !in_use(&one) { other } else { one }) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    #[test]
    fn a_port_in_use_and_a_foreign_address_are_told_apart() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut spec = spec();
        spec.port = taken.local_addr().unwrap().port();
        for listen in ["127.0.0.1", "*", "localhost"] {
            listen.clone_into(&mut spec.listen_addresses);
            assert!(matches!(check_port(&spec), Err(PortError::InUse { .. })), "{listen}");
        }
        // Of the addresses of a name one is free, and one is not.
        let names = |addresses: [&str; 2]| addresses.map(|ip| SocketAddr::new(ip.parse().unwrap(), spec.port)).into();
        let error = listen(&names(["127.0.0.1", "127.0.0.2"])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        listen(&names(["127.0.0.2", "192.0.2.1"])).unwrap();
        // TEST-NET-1 is nobody's (RFC 5737).
        spec.listen_addresses = "192.0.2.1".to_owned();
        assert!(matches!(check_port(&spec), Err(PortError::Refused { .. })));
        drop(taken);
        spec.listen_addresses = "127.0.0.1".to_owned();
        check_port(&spec).unwrap();
    }
}
