//! The texts of notifications: templates in Jinja's language, rendered by minijinja. They are compiled in; a file of the same
//! name in the directory `notify.templates` replaces one. Every template is rendered with samples when the settings are
//! loaded, so that an unknown value is reported at the start and not when a notification is sent.

mod environment;
mod load;
mod values;

pub use environment::escape;
pub use load::{Fault, TemplateLocation, Templates};
pub use values::{CodeValues, DigestMessage, DigestValues, ResetValues};
