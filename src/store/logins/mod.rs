//! Logins: a login is what a refresh token belongs to, so that the token can be rotated and revoked.

mod port;
mod reads;
mod rotation;
mod writes;

pub use port::{Login, LoginReads, LoginSession, LoginWrites, NewPassword, Rotation};
