//! Pictures behind addresses: fetched only where the server was told to, over https alone, from public
//! addresses alone, under caps.
//!
//! Whoever may ask a server for a picture of his choice could make it ask machines that only the server
//! reaches. So names are resolved here, what they lead to is checked, and the connection goes to what was
//! checked; each redirect passes the same way again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use crate::error::ApiError;

/// How far redirects are followed.
const REDIRECTS: u32 = 3;

/// How a server fetches pictures.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// How long a picture may take from the first lookup to its last byte. Default: 10 s.
    pub timeout: Duration,
    /// Whether only https is spoken, with machines of the public net. A test's own server is neither.
    pub(crate) only_public: bool,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            only_public: true,
        }
    }
}

/// Fetches pictures.
pub(crate) struct Fetcher {
    agent: Agent,
    timeout: Duration,
}

impl Fetcher {
    pub(crate) fn new(config: &FetchConfig) -> Self {
        let agent = Agent::config_builder()
            .https_only(config.only_public)
            // A proxy would resolve names itself, past the check.
            .proxy(None)
            .max_redirects(REDIRECTS)
            .max_redirects_will_error(true)
            // A connection that is kept was checked for another name.
            .max_idle_connections(0)
            .timeout_global(Some(config.timeout))
            .user_agent(concat!("chiasm/", env!("CARGO_PKG_VERSION")))
            .accept("image/*")
            .build();
        let check: fn(IpAddr) -> bool = match config.only_public {
            true => is_public,
            false => |own| own == IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let resolver = Checked {
            check,
            inner: DefaultResolver::default(),
        };
        Self {
            agent: Agent::with_parts(agent, DefaultConnector::default(), resolver),
            timeout: config.timeout,
        }
    }

    /// The bytes behind an address, of which there may be `max_bytes`.
    pub(crate) fn get(
        &self,
        address: &str,
        max_bytes: usize,
        param: &'static str,
    ) -> Result<Vec<u8>, ApiError> {
        let refused = |why: String| {
            ApiError::field(
                param,
                format!(
                    "the picture cannot be fetched: {why}; send it as a data URL, \
                     `data:image/...;base64,...`"
                ),
            )
        };
        let limit = max_bytes as u64;
        let read = |mut response: ureq::http::Response<ureq::Body>| {
            let body = response.body_mut().with_config().limit(limit);
            body.read_to_vec()
        };
        let fetched = self.agent.get(address).call().and_then(read);
        fetched.map_err(|error| refused(self.said(&error, max_bytes)))
    }

    /// What went wrong, without what a stranger could learn about machines behind this one.
    fn said(&self, error: &Error, max_bytes: usize) -> String {
        match error {
            Error::StatusCode(status) => format!("its server answers {status}"),
            Error::BodyExceedsLimit(_) => format!("it has more than {max_bytes} bytes"),
            Error::Timeout(_) => format!("it took longer than {} s", self.timeout.as_secs_f32()),
            Error::TooManyRedirects => format!("more than {REDIRECTS} redirects"),
            Error::RequireHttpsOnly(_) => "a redirect leads away from https".to_owned(),
            Error::BadUri(_) | Error::Http(_) => "its address cannot be read".to_owned(),
            Error::HostNotFound => "its name leads to no public address".to_owned(),
            Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(inner) => self.said(inner, max_bytes),
                None => "the connection failed".to_owned(),
            },
            _ => "the connection failed".to_owned(),
        }
    }
}

/// Resolves names, and refuses those that lead anywhere else than they may.
#[derive(Debug)]
struct Checked {
    check: fn(IpAddr) -> bool,
    inner: DefaultResolver,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        // That a name is not known and that it is a machine of the own net look the same from outside.
        let found = self.inner.resolve(uri, config, timeout);
        let found = found.map_err(|error| match error {
            Error::Io(_) => Error::HostNotFound,
            other => other,
        })?;
        match found.iter().all(|address| (self.check)(address.ip())) {
            true => Ok(found),
            false => Err(Error::HostNotFound),
        }
    }
}

/// Whether an address belongs to the public net: none of the ranges that IANA's special-purpose registries
/// keep for something else (RFC 6890 and what came after).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., _, _)
    );
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    match address.segments() {
        // What a translator of the own net makes of IPv4 addresses (NAT64).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        // Protocol assignments with Teredo, documentation twice, and 6to4.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] | [0x2002, ..] => {
            false
        }
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_the_public_net_is_public() {
        for own in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(own.parse().unwrap()), "{own}");
        }
        for public in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2606:4700::1111",
            "2a00::1",
            "2001:4860::8888",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn what_is_not_public_is_not_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetcher = Fetcher::new(&FetchConfig::default());
        for host in [
            "localhost",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
        ] {
            let error = fetcher.get(&format!("https://{host}:{port}/a.png"), 1000, "image");
            let error = error.unwrap_err().to_string();
            assert!(error.contains("cannot be fetched"), "{host}: {error}");
            assert!(listener.accept().is_err(), "{host} was asked");
        }
        let plain = fetcher.get("http://1.1.1.1/a.png", 1000, "image");
        assert!(plain.unwrap_err().to_string().contains("https"));
    }

    /// Answers one path after another with what stands for it, until its socket is gone.
    fn stranger() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, address);
            }
        });
        address
    }

    fn answer(mut stream: TcpStream, own: SocketAddr) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let path = first.split(' ').nth(1).unwrap();
        let ok = |body: &[u8]| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let to = |target: String| {
            format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n")
                .into_bytes()
        };
        let bytes = match path {
            "/picture" => ok(b"bytes"),
            "/there" => to("/picture".to_owned()),
            "/round" => to("/round".to_owned()),
            // Another address of this machine, which the check of these tests does not let through.
            "/inside" => to(format!("http://127.0.0.2:{}/picture", own.port())),
            "/large" => ok(&[0; 4000]),
            "/endless" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
                while stream.write_all(&[0; 4096]).is_ok() {}
                return;
            }
            "/silent" => {
                // Held open until the other side gives up.
                let _ = lines.next();
                return;
            }
            _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        };
        let _ = stream.write_all(&bytes);
    }

    #[test]
    fn redirects_sizes_and_times_are_held() {
        let own = stranger();
        let fetcher = Fetcher::new(&FetchConfig {
            timeout: Duration::from_millis(500),
            only_public: false,
        });
        let get = |path: &str| fetcher.get(&format!("http://{own}{path}"), 1000, "image");
        assert_eq!(get("/picture").unwrap(), b"bytes");
        assert_eq!(get("/there").unwrap(), b"bytes");
        for (path, why) in [
            ("/round", "redirects"),
            ("/inside", "no public address"),
            ("/large", "more than 1000 bytes"),
            ("/endless", "more than 1000 bytes"),
            ("/silent", "longer than 0.5 s"),
            ("/nothing", "answers 404"),
        ] {
            let error = get(path).unwrap_err().to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
    }
}
