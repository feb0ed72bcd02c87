//! Everything that happens in a room: the commands, and [`apply`], the pure function that decides what a batch
//! of them does.

