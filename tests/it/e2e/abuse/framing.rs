//! Client bytes that try to become commands or events.
