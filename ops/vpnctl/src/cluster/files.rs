//! Backups in files.

use std::io::{Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use api::v1::restore_request::Part;
use api::v1::{BackupRequest, RestoreOptions, RestoreRequest};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Client;
use super::arguments::{BackupArguments, RestoreArguments};
use crate::output::{Output, octets};

/// Octets of one message of a restore.
const PIECE: usize = 256 << 10;

/// Writes a backup into a file, which is there under its name once it is complete.
pub(super) async fn backup(client: &mut Client, arguments: &BackupArguments) -> Result<()> {
    if arguments.file == Path::new("-") {
        let written = receive(client, &mut std::io::stdout().lock()).await?;
        eprintln!("{} written", octets(written));
        return Ok(());
    }
    let file = &arguments.file;
    if !arguments.force && file.exists() {
        bail!("{} is there already: --force replaces it", file.display());
    }
    let mut name = file.clone().into_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let outcome = async {
        let mut open = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .with_context(|| format!("cannot write {}", part.display()))?;
        let written = receive(client, &mut open).await?;
        open.sync_all()?;
        std::fs::rename(&part, file)
            .with_context(|| format!("cannot rename {} to {}", part.display(), file.display()))?;
        Ok(written)
    };
    match outcome.await {
        Ok(written) => {
            eprintln!("{} written to {}", octets(written), file.display());
            Ok(())
        }
        Err(error) => {
            // Half a backup is none.
            let _ = std::fs::remove_file(&part);
            Err(error)
        }
    }
}

async fn receive(client: &mut Client, to: &mut impl Write) -> Result<u64> {
    let mut chunks = client.backup(BackupRequest {}).await?.into_inner();
    let mut written = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        to.write_all(&chunk.data)?;
        written += u64::try_from(chunk.data.len())?;
    }
    to.flush()?;
    Ok(written)
}

/// Sends a backup.
pub(super) async fn restore(
    client: &mut Client,
    arguments: &RestoreArguments,
    output: &Output,
) -> Result<()> {
    let options = RestoreOptions {
        validate_only: arguments.dry_run,
        replace: arguments.replace,
    };
    let (sender, receiver) = mpsc::channel(4);
    let file = arguments.file.clone();
    // Reading may block, and a read that fails has to end the call without its last piece.
    let reading = tokio::task::spawn_blocking(move || read(&file, options, &sender));
    let answer = client.restore(ReceiverStream::new(receiver)).await;
    // What is wrong with the file is said first: the service only sees that it ends early.
    reading.await??;
    let answer = answer?.into_inner();
    if !output.is_table() {
        return output.value(&answer);
    }
    let time = answer.backup_time.as_ref().map(api::time::to_rfc3339);
    let keys: Vec<String> = answer
        .keys
        .iter()
        .map(|(word, count)| format!("{word} {count}"))
        .collect();
    output.line(&format!(
        "backup of {} by node {}: {}",
        time.unwrap_or_default(),
        answer.backup_node,
        keys.join(", ")
    ))?;
    if arguments.dry_run {
        eprintln!("it is complete and can be restored (dry run: nothing was written)");
    } else {
        eprintln!("restored; epoch {} has begun", answer.epoch);
    }
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn read(file: &Path, options: RestoreOptions, sender: &mpsc::Sender<RestoreRequest>) -> Result<()> {
    let mut source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let send = |part| sender.blocking_send(RestoreRequest { part: Some(part) });
    if send(Part::Options(options)).is_err() {
        return Ok(());
    }
    loop {
        let mut data = Vec::with_capacity(PIECE);
        let limit = u64::try_from(PIECE)?;
        source
            .by_ref()
            .take(limit)
            .read_to_end(&mut data)
            .with_context(|| format!("cannot read {}", file.display()))?;
        // The service may have refused already: its answer says why.
        if data.is_empty() || send(Part::Data(data)).is_err() {
            return Ok(());
        }
    }
}
