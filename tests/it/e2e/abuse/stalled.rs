//! Sockets that stop reading in the middle of a request: nothing shared may wait for them.
