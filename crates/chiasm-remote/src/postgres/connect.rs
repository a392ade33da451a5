//! Connections to PostgreSQL, and what its errors mean.

use std::error::Error as _;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error};

use crate::address::{PostgresAddress, Tls};
use crate::error::RemoteError;
use crate::postgres::tls::Rustls;

/// After this long without an answer a connection counts as lost: idle, then probes, then what was sent and not
/// acknowledged.
const IDLE: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// What connections run on. It lasts as long as the process: whoever drops a connection may be in a place where no
/// runtime may end.
pub(crate) fn runtime() -> Result<&'static Runtime, RemoteError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("postgres")
        .enable_all()
        .build()
        .map_err(|error| RemoteError::System(format!("cannot start a thread: {error}")))?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Opens a connection.
pub(crate) async fn connect(address: &PostgresAddress) -> Result<Client, RemoteError> {
    let place = address.to_string();
    let mut config = Config::new();
    config
        .host(&address.host)
        .port(address.port)
        .dbname(&address.database)
        .application_name("chiasm")
        .keepalives_idle(IDLE)
        .keepalives_interval(PROBE_EVERY)
        .keepalives_retries(PROBES)
        .tcp_user_timeout(IDLE + PROBE_EVERY * PROBES)
        .ssl_mode(match address.tls {
            _ if address.is_socket() => SslMode::Disable,
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require => SslMode::Require,
        });
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(user) = address.user.clone().or_else(|| variable("PGUSER")) {
        config.user(user);
    }
    if let Some(password) = address.password.clone().or_else(|| variable("PGPASSWORD")) {
        config.password(password);
    }
    if let Some(options) = &address.options {
        config.options(options);
    }
    let tls = Rustls::new(address.root.as_deref()).map_err(|reason| RemoteError::Tls {
        place: place.clone(),
        reason,
    })?;
    // What listens may be no database, and then its first word never comes.
    let opened = tokio::time::timeout(address.connect_timeout, config.connect(tls)).await;
    let unreachable = |reason| RemoteError::Unreachable {
        place: place.clone(),
        reason,
    };
    let (client, connection) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            return Err(match said(&place, &error) {
                RemoteError::Lost { reason, .. } => unreachable(reason),
                other => other,
            });
        }
        Err(_) => {
            let seconds = address.connect_timeout.as_secs();
            return Err(unreachable(format!("no answer within {seconds} s")));
        }
    };
    tokio::spawn(async move {
        // Whoever uses the connection hears of it too.
        let _ = connection.await;
    });
    Ok(client)
}

/// What an error means.
pub(crate) fn said(place: &str, error: &Error) -> RemoteError {
    let place = place.to_owned();
    let Some(own) = error.as_db_error() else {
        let mut reason = error.to_string();
        if let Some(source) = error.source() {
            let source = source.to_string();
            if !reason.contains(&source) {
                reason = format!("{reason}: {source}");
            }
        }
        return match reason.as_str() {
            text if text.starts_with("error connecting") || text.contains("timeout") => {
                RemoteError::Unreachable { place, reason }
            }
            text if text.starts_with("error performing TLS") => RemoteError::Tls { place, reason },
            text if text.starts_with("invalid configuration")
                || text.contains("authentication") =>
            {
                RemoteError::Login {
                    place,
                    reason,
                    hint: LOGIN,
                }
            }
            text if error.is_closed() || text.contains("communicating") => {
                RemoteError::Lost { place, reason }
            }
            _ => RemoteError::Database { place, reason },
        };
    };
    let mut reason = own.message().to_owned();
    if let Some(detail) = own.detail() {
        reason = format!("{reason} ({detail})");
    }
    let code = own.code();
    match code {
        code if *code == SqlState::INVALID_PASSWORD
            || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
        {
            RemoteError::Login {
                place,
                reason,
                hint: LOGIN,
            }
        }
        code if *code == SqlState::INVALID_CATALOG_NAME
            || *code == SqlState::INVALID_SCHEMA_NAME =>
        {
            RemoteError::NoDatabase { place, reason }
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => RemoteError::Denied { place, reason },
        code if *code == SqlState::CANNOT_CONNECT_NOW
            || *code == SqlState::TOO_MANY_CONNECTIONS =>
        {
            RemoteError::Unreachable { place, reason }
        }
        code if *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN => {
            RemoteError::Lost { place, reason }
        }
        _ => RemoteError::Database { place, reason },
    }
}

const LOGIN: &str = "write the user before the `@` of the address and the password behind it as `user:password@`, or \
                     set PGUSER and PGPASSWORD";
