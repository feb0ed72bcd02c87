//! Names, addresses and reactions that are not what they seem.
