//! Loads the settings: layers, values, combinations.

use super::{
    layers,
    problem::Problems,
    read::Reader,
    read_sections as read,
    settings::{Config, Role},
    sources::Sources,
    validate::validate,
};

impl Config {
    /// Reads all layers and checks every value for `role`.
    ///
    /// # Errors
    /// All problems in this order: unreadable files and unknown keys, then values, then contradictions between settings.
    /// Contains no secret.
    pub fn load(sources: &Sources, role: Role) -> Result<Config, Problems> {
        let (entries, problems) = layers::merge(sources);
        let mut r = Reader {
            entries,
            problems,
            shown: Vec::new(),
        };
        let config = Config {
            edge: read::edge(&mut r),
            socketio: read::socketio(&mut r),
            queue: read::queue(&mut r),
            database: read::database(&mut r),
            redis: read::redis(&mut r),
            worker: read::worker(&mut r),
            notify: read::notify(&mut r),
            autoscale: read::autoscale(&mut r),
            start: read::start(&mut r),
            rooms: read::rooms(&mut r),
            auth: read::auth(&mut r),
            limits: read::limits(&mut r),
            log: read::log(&mut r),
            metrics: read::metrics(&mut r),
            shown: Vec::new(),
        };
        validate(&config, role, &mut r);
        if r.problems.is_empty() {
            Ok(Config {
                shown: r.shown,
                ..config
            })
        } else {
            Err(Problems(r.problems))
        }
    }
}
