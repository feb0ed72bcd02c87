//! Settings files, environment variables and server addresses.

use std::{fs, thread};

use crate::config::{Config, Role, Sources};

const PASSWORD: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

/// For any content of a settings file or a variable, loading returns settings or problems, and neither shows a secret.
pub fn settings(input: &[u8]) {
    let file = format!(
        "chat-fuzz-{}-{:?}.toml",
        std::process::id(),
        thread::current().id()
    );
    let file = std::env::temp_dir().join(file);
    fs::write(&file, input).expect("a temporary file");
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let tail = lines.next().unwrap_or_default();
    let variables = lines.filter_map(|line| line.split_once('='));
    let variables =
        variables.map(|(name, value)| (format!("CHAT__{}", name.trim()), value.to_owned()));
    let secrets = [
        ("CHAT__AUTH__SECRET".to_owned(), PASSWORD.to_owned()),
        (
            "AMQP_URL".to_owned(),
            format!("amqp://chat:{PASSWORD}@{tail}"),
        ),
    ];
    let sources = Sources::default()
        .with_file(Some(file.clone()))
        .with_env(variables)
        .with_env(secrets);
    let shown = match Config::load(&sources, Role::Edge) {
        Ok(config) => format!("{}{config:?}", config.effective()),
        Err(problems) => problems.to_string(),
    };
    let _ = fs::remove_file(&file);
    // Parts of the file itself may be shown.
    assert!(
        text.contains("hunter2") || !shown.contains("hunter2"),
        "{shown}"
    );
}
