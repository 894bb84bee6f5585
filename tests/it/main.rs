//! The parts against each other over real sockets, files and databases.

mod stripe_report;
