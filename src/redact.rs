//! `Debug` that shows named fields and no others. Whatever holds a password, a token, a hash, a code, an address or what
//! somebody wrote may end up in a log line or a dead letter's reason as part of something else; `tests/it/tidy.rs` finds
//! those that derive `Debug` instead.

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
