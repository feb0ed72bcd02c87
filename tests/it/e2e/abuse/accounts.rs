//! Attacks on logins, registrations and verification: password guessing, locking out, mail and text-message floods.
