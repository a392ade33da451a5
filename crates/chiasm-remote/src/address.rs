//! What names a database: `postgres://user@host/database?table=pictures`, `qdrant://host/pictures`.
//!
//! | form | meaning |
//! | --- | --- |
//! | `postgres://[user[:password]@]host[:port]/database?table=NAME` | a table of PostgreSQL with pgvector; `NAME` may be `schema.table` |
//! | `qdrant://host[:port]/collection` | a collection of Qdrant over http |
//! | `qdrant+https://host[:port]/collection` | the same over https |
//!
//! Further settings of PostgreSQL stand behind `&`: `host=DIR` for the folder of a Unix socket, `sslmode=disable`, `prefer` or
//! `require`, `sslrootcert=FILE`, `connect_timeout=SECONDS`, `options=...` for the server. A character that has a meaning in an
//! address is written as `%` with two hexadecimal digits.
//!
//! Whatever is shown of an address is made by [`std::fmt::Display`], which leaves the password out.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::RemoteError;

/// Longest name of a table or collection: what belongs to it adds a few letters, and PostgreSQL cuts names at 63 bytes.
const MAX_NAME: usize = 50;
const POSTGRES_PORT: u16 = 5432;
const QDRANT_PORT: u16 = 6333;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A table or collection of a database.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// PostgreSQL with pgvector.
    Postgres(PostgresAddress),
    /// Qdrant.
    Qdrant(QdrantAddress),
}

/// A table of PostgreSQL.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Name or number of a machine, or the folder of a Unix socket.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) schema: Option<String>,
    pub(crate) table: String,
    pub(crate) tls: Tls,
    /// Certificates that are trusted instead of the public ones, PEM.
    pub(crate) root: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    /// Settings for the server.
    pub(crate) options: Option<String>,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always.
    Require,
}

/// A collection of Qdrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QdrantAddress {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) collection: String,
}

impl Address {
    /// Whether a text is meant as an address of a database, right or wrong, rather than as a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| {
            !scheme.is_empty()
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(own) => own.fmt(f),
            Self::Qdrant(own) => own.fmt(f),
        }
    }
}

/// As shown: a password must not come out of a debug line either.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().unwrap_or_default();
        let at = if user.is_empty() { "" } else { "@" };
        let (host, socket) = match self.is_socket() {
            true => (String::new(), format!("&host={}", self.host)),
            false => (shown(&self.host, self.port, POSTGRES_PORT), String::new()),
        };
        let schema = self
            .schema
            .as_ref()
            .map_or_else(String::new, |own| format!("{own}."));
        let (database, table) = (&self.database, &self.table);
        write!(
            f,
            "postgres://{user}{at}{host}/{database}?table={schema}{table}{socket}"
        )
    }
}

impl fmt::Display for QdrantAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "qdrant+https" } else { "qdrant" };
        let host = shown(&self.host, self.port, QDRANT_PORT);
        write!(f, "{scheme}://{host}/{}", self.collection)
    }
}

fn shown(host: &str, port: u16, usual: u16) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    match port == usual {
        true => host,
        false => format!("{host}:{port}"),
    }
}

impl PostgresAddress {
    /// Whether the host is the folder of a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl FromStr for Address {
    type Err = RemoteError;

    /// Reads the text form.
    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let read = match scheme {
            "postgres" | "postgresql" => postgres(text).map(Self::Postgres),
            "qdrant" => qdrant(text, false).map(Self::Qdrant),
            "qdrant+https" => qdrant(text, true).map(Self::Qdrant),
            "" => Err("it has no `postgres://` or `qdrant://`".to_owned()),
            _ => Err(format!("there is no database of the kind `{scheme}://`")),
        };
        read.map_err(|reason| RemoteError::Address {
            text: without_password(text),
            reason,
        })
    }
}

/// An address that cannot be read, as far as it can be shown: what stands before the last `@` may be a password, and
/// so may what stands where a port should, if the `@` was forgotten.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    if let Some((_, rest)) = rest.rsplit_once('@') {
        return format!("{scheme}://...@{rest}");
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match authority.split_once(':') {
        Some((host, port)) if !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{host}:...{path}")
        }
        _ => text.to_owned(),
    }
}

/// The parts of `scheme://user:password@host:port/path?query`, not decoded.
struct Parts<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        let (_, rest) = text.split_once("://").unwrap_or_default();
        if rest.contains('#') {
            return Err("a `#` in it is written `%23`".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        let (user, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (None, None),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("a `[` is not closed")?;
                (host, rest.strip_prefix(':').unwrap_or(rest))
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let port = match port {
            "" => None,
            digits => Some(
                digits
                    .parse()
                    .map_err(|_| "its port is no number up to 65535")?,
            ),
        };
        Ok(Self {
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()),
            host,
            port,
            path,
            query,
        })
    }
}

fn postgres(text: &str) -> Result<PostgresAddress, String> {
    let parts = Parts::of(text)?;
    let decode = |part: Option<&str>| part.map(decoded).transpose();
    let mut address = PostgresAddress {
        user: decode(parts.user)?,
        password: decode(parts.password)?,
        host: decoded(parts.host)?,
        port: parts.port.unwrap_or(POSTGRES_PORT),
        database: decoded(parts.path)?,
        schema: None,
        table: String::new(),
        tls: Tls::Prefer,
        root: None,
        connect_timeout: CONNECT_TIMEOUT,
        options: None,
    };
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match name {
            "table" => match value.split_once('.') {
                Some((schema, table)) => {
                    address.schema = Some(name_of(schema, "schema")?);
                    address.table = name_of(table, "table")?;
                }
                None => address.table = name_of(&value, "table")?,
            },
            "host" => address.host = value,
            "port" => {
                let port = value.parse();
                address.port = port.map_err(|_| "its port is no number up to 65535")?;
            }
            "user" => address.user = Some(value),
            "sslmode" => {
                address.tls = match value.as_str() {
                    "disable" => Tls::Disable,
                    "allow" | "prefer" => Tls::Prefer,
                    // Certificates are always checked, so these ask for the same.
                    "require" | "verify-ca" | "verify-full" => Tls::Require,
                    _ => return Err("`sslmode` is disable, prefer or require".to_owned()),
                }
            }
            "sslrootcert" => address.root = Some(PathBuf::from(value)),
            "connect_timeout" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                let seconds = seconds.ok_or("`connect_timeout` is a number of seconds")?;
                address.connect_timeout = Duration::from_secs(seconds);
            }
            "options" => address.options = Some(value),
            "password" => {
                return Err("the password stands before the `@`, or in PGPASSWORD".to_owned());
            }
            other => {
                let known =
                    "table, host, port, user, sslmode, sslrootcert, connect_timeout, options";
                return Err(format!("there is no setting `{other}`; there are {known}"));
            }
        }
    }
    if address.table.is_empty() {
        return Err("it names no table: write `?table=NAME` at its end".to_owned());
    }
    if address.database.is_empty() {
        return Err("it names no database: write `/DATABASE` behind the host".to_owned());
    }
    if address.host.is_empty() {
        address.host = "localhost".to_owned();
    }
    Ok(address)
}

fn qdrant(text: &str, https: bool) -> Result<QdrantAddress, String> {
    let parts = Parts::of(text)?;
    if parts.user.is_some() || parts.password.is_some() {
        return Err("a key stands in CHIASM_QDRANT_KEY, not in the address".to_owned());
    }
    if !parts.query.is_empty() {
        return Err("it has no settings behind a `?`".to_owned());
    }
    if parts.host.is_empty() {
        return Err("it names no host".to_owned());
    }
    Ok(QdrantAddress {
        https,
        host: decoded(parts.host)?,
        port: parts.port.unwrap_or(QDRANT_PORT),
        collection: name_of(&decoded(parts.path)?, "collection")?,
    })
}

/// A name that needs no care in any language it is written into.
fn name_of(name: &str, what: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() {
        return Err(format!("it names no {what}"));
    }
    if name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!(
            "a {what} is called with up to {MAX_NAME} letters a to z, digits, `_` and `-`"
        ));
    }
    Ok(name.to_owned())
}

/// `%41` becomes `A`.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(
                "a `%` in it is followed by two hexadecimal digits, or written `%25`".to_owned(),
            );
        };
        // Two digits make a byte.
        bytes.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8 once `%` is read")?;
    match text.contains('\0') {
        true => Err("it has a NUL character".to_owned()),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn postgres_of(text: &str) -> PostgresAddress {
        match text.parse() {
            Ok(Address::Postgres(own)) => own,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn addresses_of_postgres_are_read() {
        let own =
            postgres_of("postgres://me:p%40ss%2Fword@db.example:6000/pictures?table=gallery.small");
        assert_eq!(own.user.as_deref(), Some("me"));
        assert_eq!(own.password.as_deref(), Some("p@ss/word"));
        assert_eq!((own.host.as_str(), own.port), ("db.example", 6000));
        assert_eq!(
            (own.schema.as_deref(), own.table.as_str()),
            (Some("gallery"), "small")
        );
        assert_eq!(
            own.to_string(),
            "postgres://me@db.example:6000/pictures?table=gallery.small"
        );
        let own =
            postgres_of("postgresql://postgres:@/postgres?host=/run/pg&table=t&sslmode=disable");
        assert!(own.is_socket() && own.password.is_none() && own.tls == Tls::Disable);
        assert_eq!(
            own.to_string(),
            "postgres://postgres@/postgres?table=t&host=/run/pg"
        );
        let own = postgres_of("postgres://[::1]:5432/d?table=t&connect_timeout=3");
        assert_eq!(
            (own.host.as_str(), own.connect_timeout.as_secs()),
            ("::1", 3)
        );
        assert_eq!(own.to_string(), "postgres://[::1]/d?table=t");
    }

    #[test]
    fn addresses_of_qdrant_are_read() {
        for (text, https, port) in [
            ("qdrant://localhost/pictures", false, 6333),
            ("qdrant+https://cloud.example:443/pictures", true, 443),
        ] {
            let Ok(Address::Qdrant(own)) = text.parse() else {
                panic!("{text}")
            };
            assert_eq!((own.https, own.port), (https, port));
            assert_eq!(own.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_without_the_password() {
        for (text, reason) in [
            ("mysql://me:secret@h/d", "no database of the kind"),
            ("postgres://me:secret@h/d", "table=NAME"),
            ("postgres://me:secret/d?table=t", "port"),
            ("postgres://me:secret@h/?table=t", "no database"),
            ("postgres://me:secret@h:x/d?table=t", "port"),
            ("postgres://me:sec%ret@h/d?table=t", "hexadecimal"),
            ("postgres://me:secret@h/d?table=a%20b", "letters"),
            (
                "postgres://me:secret@h/d?table=t&colour=red",
                "no setting `colour`",
            ),
            ("postgres://h/d?table=t&password=x", "PGPASSWORD"),
            ("postgres://me:sec#ret@h/d?table=t", "%23"),
            ("qdrant://me:secret@h/c", "CHIASM_QDRANT_KEY"),
            ("qdrant:///c", "no host"),
            ("qdrant://h", "no collection"),
            ("qdrant://h/c/d", "letters"),
            ("nothing", "no `postgres://`"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            let said = error.to_string();
            assert!(said.contains(reason), "{text}: {said}");
            assert!(!said.contains("secret") && !said.contains("ret@"), "{said}");
            assert!(error.hint().is_some());
        }
        let read: Address = "postgres://me:secret@h/d?table=t".parse().unwrap();
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn paths_are_no_addresses() {
        for text in [
            "photos.index",
            "/a/b",
            "a:b",
            "c:\\x",
            "://x",
            "./postgres:/x",
        ] {
            assert!(!Address::is_meant(text), "{text}");
        }
        for text in ["postgres://x", "qdrant+https://x", "mysql://x"] {
            assert!(Address::is_meant(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(postgres|qdrant)://[ -~é]{0,40}|[:/?@%&=a\\[\\]]{0,20}") {
            if let Ok(address) = text.parse::<Address>() {
                let _ = address.to_string();
            }
        }
    }
}
