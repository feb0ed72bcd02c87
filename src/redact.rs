//! A `Debug` implementation that shows only the named fields. Types that hold a password, token, hash, code, address or
//! user-written text may be part of a log line or of a dead letter's reason; `tests/it/tidy.rs` finds such types that
//! derive `Debug`.

/// `debug_of!(Login { id, user })`
macro_rules! debug_of {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}
