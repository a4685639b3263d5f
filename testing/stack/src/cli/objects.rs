//! `stack s3`: the store from the command line.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use peers::error::{Context, Error, Result};

use super::current::current;
use crate::s3::S3;

pub(super) fn arguments() -> Command {
    let word = |name: &'static str| Arg::new(name).required(true).allow_hyphen_values(true);
    let with_key =
        |name: &'static str, about: &'static str| Command::new(name).about(about).arg(word("KEY"));
    Command::new("s3")
        .about("Put, get and look at objects of the store")
        .subcommand_required(true)
        .arg(Arg::new("bucket").long("bucket").global(true).help("Another bucket than the stack's"))
        .subcommand(
            Command::new("put")
                .about("Upload a file, or what is piped in")
                .arg(word("FILE").help("A file, or - for standard input"))
                .arg(word("KEY")),
        )
        .subcommand(with_key("get", "Print an object"))
        .subcommand(with_key("head", "Show size, ETag and type of an object"))
        .subcommand(with_key("tags", "Show the tags of an object"))
        .subcommand(with_key("rm", "Delete an object"))
        .subcommand(Command::new("ls").about("List all objects"))
}

pub(super) async fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("a command is missing")?;
    let s3 = client(matches.get_one::<String>("bucket").map(String::as_str))?;
    // `ls` has no such argument.
    let word = |name: &str| {
        matches.try_get_one::<String>(name).ok().flatten().cloned().unwrap_or_default()
    };
    let key = word("KEY");
    let missing = || Error::new(format!("{key}: no such object"));
    match name {
        "put" => {
            let etag = match word("FILE").as_str() {
                "-" => {
                    let mut content = Vec::new();
                    std::io::stdin().read_to_end(&mut content).context("standard input")?;
                    s3.put(&key, content).await?
                }
                file => s3.put_file(&key, Path::new(file)).await?,
            };
            say!("{etag}");
        }
        "get" => {
            let content = s3.get(&key).await?.ok_or_else(missing)?;
            std::io::stdout().write_all(&content).context("standard output")?;
        }
        "head" => {
            let head = s3.head(&key).await?.ok_or_else(missing)?;
            say!("size={}", head.size);
            say!("etag={}", head.etag.unwrap_or_default());
            say!("type={}", head.content_type.unwrap_or_default());
            if let Some(version) = head.version_id {
                say!("version={version}");
            }
        }
        "tags" => {
            for (name, value) in s3.tags(&key).await?.ok_or_else(missing)? {
                say!("{name}={value}");
            }
        }
        "rm" => s3.delete(&key).await?,
        _ => {
            for entry in s3.list().await? {
                say!("{:>12} {}", entry.size, entry.key);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The stack's store; without a stack, the one that the environment names.
fn client(bucket: Option<&str>) -> Result<S3> {
    let no_stack = match current() {
        Ok(state) => {
            let s3 = S3::new(&state.settings);
            return Ok(bucket.map_or(s3.clone(), |bucket| s3.with_bucket(bucket)));
        }
        Err(error) => error,
    };
    let variable = |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok());
    let url = variable(&["MINIO_SERVER_URL", "AWS_ENDPOINT_URL"]);
    let key = variable(&["AWS_ACCESS_KEY_ID", "MINIO_ACCESS_KEY_ID"]);
    let secret = variable(&["AWS_SECRET_ACCESS_KEY", "MINIO_SECRET_ACCESS_KEY"]);
    let region = variable(&["AWS_REGION", "MINIO_REGION"]).unwrap_or_else(|| "eu-west-1".into());
    let (Some(url), Some(key), Some(secret)) = (url, key, secret) else {
        return Err(no_stack);
    };
    Ok(S3::at(&url, &key, &secret, &region, bucket.unwrap_or("storagebucket")))
}
