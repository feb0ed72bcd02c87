//! `chat migrate`, and the data of a standalone server: `chat backup` and `chat restore`.

use std::path::{Path, PathBuf};

use chat::{
    app, backup,
    config::Config,
    error::{Error, Result},
    output,
    protocol::raw,
    transfer::{self, SecretState, Transfer},
};
use clap::Args;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub struct Backup {
    /// The file to write.
    file: PathBuf,
    /// The data directory of the server, which may be running.
    #[arg(long, default_value = "./data", value_name = "DIR")]
    data: PathBuf,
    /// Replaces the file if it exists.
    #[arg(long)]
    force: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Restore {
    /// A file that `chat backup` wrote.
    file: PathBuf,
    /// The data directory; created if missing.
    #[arg(long, default_value = "./data", value_name = "DIR")]
    data: PathBuf,
    /// Moves the data of the directory aside, if it has any.
    #[arg(long)]
    force: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Migrate {
    /// Also moves the data of a standalone server, which must not be running, into the database, which must be empty.
    #[arg(long, value_name = "DIR")]
    from_standalone: Option<PathBuf>,
    /// After a restore from a backup: clients that are ahead of the database load their rooms anew.
    #[arg(long, conflicts_with = "from_standalone")]
    restored: bool,
    /// Prints JSON.
    #[arg(long, requires = "from_standalone")]
    json: bool,
}

pub async fn migrate(
    config: &Config,
    arguments: Migrate,
    shutdown: CancellationToken,
) -> Result<()> {
    let Some(data) = arguments.from_standalone else {
        applied(&app::migrate(config).await?);
        output::line("the schema is up to date");
        if arguments.restored {
            transfer::begin_epoch(config).await?;
            output::line(
                "a new epoch has begun: clients that are ahead of the database get `reset`",
            );
        }
        return Ok(());
    };
    let transfer = tokio::select! {
        moved = transfer::from_standalone(config, &data) => moved?,
        () = shutdown.cancelled() => return Err(Error::conflict(
            "interrupted; the database is as before, unless it was about to commit: then a repetition is refused",
        )),
    };
    if arguments.json {
        output::line(raw(&transfer));
    } else {
        describe(&transfer, &data);
    }
    Ok(())
}

fn applied(migrations: &[String]) {
    for migration in migrations {
        output::line(format_args!("applied {migration}"));
    }
}

fn describe(transfer: &Transfer, data: &Path) {
    applied(&transfer.migrations);
    output::line(format_args!("{:<24} {:>12}", "table", "rows"));
    for table in &transfer.tables {
        output::line(format_args!("{:<24} {:>12}", table.table, table.rows));
    }
    output::line(format_args!(
        "all tables have as many rows as in {}. Stored before: {} waiting commands. Published to RabbitMQ: {} tasks",
        data.display(),
        transfer.commands,
        transfer.tasks
    ));
    let secret = data.join("secret");
    let secret = secret.display();
    output::line(match transfer.secret {
        SecretState::Same => "auth.secret is that of the standalone server: logins stay".to_owned(),
        SecretState::NotInDirectory => {
            "start the edges with the auth.secret of the standalone server; with another one all logins end".to_owned()
        }
        SecretState::ToBeSet => format!(
            "start the edges with the secret of the standalone server, or all logins end: CHAT__AUTH__SECRET=\"$(cat {secret})\""
        ),
        SecretState::Different => format!(
            "auth.secret is not the secret in {secret}: all logins end, unless the edges get that one"
        ),
    });
}

pub async fn backup(arguments: Backup, shutdown: CancellationToken) -> Result<()> {
    let making = backup::make(&arguments.data, &arguments.file, arguments.force);
    let backup = tokio::select! {
        made = making => made?,
        () = shutdown.cancelled() => return Err(Error::conflict("interrupted; no backup was written")),
    };
    if arguments.json {
        output::line(raw(&backup));
        return Ok(());
    }
    output::line(format_args!(
        "{}: {} bytes with {} messages in {} rooms of {} users, and {} accepted commands that are not stored yet",
        backup.file.display(),
        backup.bytes,
        backup.messages,
        backup.rooms,
        backup.users,
        backup.queued
    ));
    if backup.with_secret {
        output::line(
            "it also holds the secret that signs the tokens: keep it as safe as the data directory",
        );
    } else {
        output::line(
            "it holds no secret for the tokens: keep auth.secret as well, or all logins end with a restore",
        );
    }
    Ok(())
}

pub async fn restore(arguments: Restore, shutdown: CancellationToken) -> Result<()> {
    let restoring = backup::restore(&arguments.file, &arguments.data, arguments.force);
    let restored = tokio::select! {
        restored = restoring => restored?,
        () = shutdown.cancelled() => return Err(Error::conflict(
            "interrupted; the files are as before",
        )),
    };
    if arguments.json {
        output::line(raw(&restored));
        return Ok(());
    }
    output::line(format_args!(
        "restored the backup of {} (chat {}) into {}",
        restored.at,
        restored.version,
        restored.data.display()
    ));
    if let Some(replaced) = &restored.replaced {
        output::line(format_args!(
            "what was there before is in {}; delete it when it is no longer needed",
            replaced.display()
        ));
    }
    if !restored.with_secret {
        output::line(
            "it has no secret for the tokens: set auth.secret as it was, or all logins end",
        );
    }
    Ok(())
}
