//! The client's address behind proxies, and what counts as one address for the limits.
