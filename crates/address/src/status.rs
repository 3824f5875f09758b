use pgbaton_types::Epoch;

/// How the virtual address fares on this host, for whoever looks from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The reign in which this host is to have it; none: it is not.
    pub held: Option<Epoch>,
    /// The addresses that were put on the interface, or prolonged there, and have not run out since.
    pub present: Vec<String>,
    /// What is wrong, with what to do.
    pub problems: Vec<String>,
}
