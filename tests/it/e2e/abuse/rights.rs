//! Rights that end while something is under way, and everything that must outlive leaving and joining.
