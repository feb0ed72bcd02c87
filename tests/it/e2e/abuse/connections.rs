//! Connections that ask for nothing, too much or too slowly; answers that nobody reads.
