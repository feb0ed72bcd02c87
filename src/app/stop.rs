//! Stopping: by signals, and by the end of the process that started this one.

use std::io::BufRead;

use tokio_util::sync::CancellationToken;

use crate::{autoscale, output, telemetry::metrics};

/// Serves the process that started this one (`autoscale/worker_pipe.rs`): prints the metrics whenever it requests them
/// on standard input, and cancels `token` at end of file: it has closed the pipe or has exited.
pub fn serve_parent(token: CancellationToken) {
    let runtime = tokio::runtime::Handle::current();
    // A thread, because the runtime would wait at shutdown for a blocking read that never ends; process exit does not.
    std::thread::spawn(move || {
        // For the runtime's metrics.
        let _runtime = runtime.enter();
        for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
            if line == autoscale::METRICS {
                output::announce(format_args!("{}{}", metrics().render(), autoscale::END));
            }
        }
        token.cancel();
    });
}

/// Returns a token that SIGTERM or SIGINT cancels; a second signal exits the process at once with status 1.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        cancel.cancel();
        tracing::info!("shutting down; a second signal exits at once");
        next().await;
        std::process::exit(1);
    });
    Ok(token)
}

/// Ignores SIGHUP from here on: by default it ends a process at once, without a drain.
pub fn ignore_hangup() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP is ignored: settings are read at the start only");
        }
    });
    Ok(())
}
