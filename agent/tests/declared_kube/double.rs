//! An API server on loopback, over real HTTP or HTTPS, that keeps objects and their history as a real one does, and goes
//! wrong as the test says.

mod state;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use plumbline::clock;
use plumbline::export::settings::Protocol;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::pki::Authority;
use state::key;
use wire::{chunk, head, refuse, request, respond};

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// `list pods` -> status code.
    pub(crate) refused: BTreeMap<String, u16>,
    /// Connections are closed before they are answered.
    pub(crate) down: bool,
    /// Lists come a byte a second.
    pub(crate) slow: bool,
    /// Lists end in the middle of the JSON.
    pub(crate) cut_lists: bool,
    /// Watches are accepted and tell nothing.
    pub(crate) silent: bool,
    /// Watches are told that the version is too old.
    pub(crate) gone: bool,
    /// Lists come in pages of this many.
    pub(crate) page: Option<usize>,
    /// The second page has expired.
    pub(crate) page_gone: bool,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// `list`, `watch` or `get`.
    pub(crate) verb: &'static str,
    pub(crate) target: String,
}

/// Whatever may be written to a watch.
#[derive(Clone)]
enum Logged {
    Event(&'static str, Value),
    /// The end of the line too.
    Raw(String),
    /// After which the watch ends.
    Cut(String),
}

struct State {
    version: u64,
    minor: u32,
    /// Objects by resource, then namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    /// Items of lists that are no objects.
    raw_items: BTreeMap<String, Vec<String>>,
    log: Vec<(u64, String, Logged)>,
    /// Versions up to here are forgotten.
    compacted: u64,
    faults: Faults,
    asked: Vec<Asked>,
    /// Watches of an earlier epoch end.
    epoch: u64,
    /// Watches that are open, by resource.
    open: BTreeMap<String, usize>,
    token: Option<String>,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<(Mutex<State>, Condvar)>,
    address: SocketAddr,
    tls: Option<(Arc<ServerConfig>, String)>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Api {
    pub(crate) fn start() -> Self {
        Self::serving(None)
    }

    pub(crate) fn over_tls() -> Self {
        let authority = Authority::new();
        let acceptor = authority
            .server("127.0.0.1")
            .acceptor(Protocol::HttpProtobuf, None);
        let scratch = tempfile::tempdir().unwrap();
        let ca = fs::read_to_string(authority.write(scratch.path(), "ca.pem")).unwrap();
        Self::serving(Some((Arc::clone(acceptor.config()), ca)))
    }

    fn serving(tls: Option<(Arc<ServerConfig>, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            version: 10,
            minor: 30,
            objects: BTreeMap::new(),
            raw_items: BTreeMap::new(),
            log: Vec::new(),
            compacted: 0,
            faults: Faults::default(),
            asked: Vec::new(),
            epoch: 0,
            open: BTreeMap::new(),
            token: None,
        };
        let api = Self {
            state: Arc::new((Mutex::new(state), Condvar::new())),
            address: listener.local_addr().unwrap(),
            tls,
        };
        let accepting = api.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = accepting.clone();
                std::thread::spawn(move || api.serve(stream));
            }
        });
        api
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Minor version that the server says it has: 34 sends lists as watches.
    pub(crate) fn set_minor(&self, minor: u32) {
        self.lock().minor = minor;
    }

    /// The token that is good from now on.
    pub(crate) fn set_token(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
        self.state.1.notify_all();
    }

    pub(crate) fn refuse(&self, requests: &[&str], code: u16) {
        let refused = requests.iter().map(|request| ((*request).to_owned(), code));
        let refused = refused.collect();
        self.faults(|faults| faults.refused = refused);
    }

    /// Puts an object there, new or changed.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let objects = state.objects.entry(resource.to_owned()).or_default();
        let former = objects.insert(key(&object), object.clone());
        let kind = if former.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state
            .log
            .push((version, resource.to_owned(), Logged::Event(kind, object)));
        self.state.1.notify_all();
    }

    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let key = (namespace.to_owned(), name.to_owned());
        let object = state
            .objects
            .get_mut(resource)
            .and_then(|all| all.remove(&key));
        let mut object = object.unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.log.push((
            version,
            resource.to_owned(),
            Logged::Event("DELETED", object),
        ));
        self.state.1.notify_all();
    }

    /// Sends a bookmark.
    pub(crate) fn bookmark(&self, resource: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let object = json!({"kind": "Pod", "metadata": {"resourceVersion": version.to_string()}});
        state.log.push((
            version,
            resource.to_owned(),
            Logged::Event("BOOKMARK", object),
        ));
        self.state.1.notify_all();
    }

    /// Sends text to the watches as it is.
    pub(crate) fn raw(&self, resource: &str, line: String) {
        let mut state = self.lock();
        let version = state.version;
        state
            .log
            .push((version, resource.to_owned(), Logged::Raw(line)));
        self.state.1.notify_all();
    }

    /// Adds text to the items of lists as it is.
    pub(crate) fn raw_item(&self, resource: &str, item: String) {
        self.lock()
            .raw_items
            .entry(resource.to_owned())
            .or_default()
            .push(item);
    }

    /// Sends a part of a line to the open watches, and ends them.
    pub(crate) fn cut_within(&self, resource: &str, part: &str) {
        let mut state = self.lock();
        let version = state.version;
        state
            .log
            .push((version, resource.to_owned(), Logged::Cut(part.to_owned())));
        self.state.1.notify_all();
    }

    /// Ends all watches, in order.
    pub(crate) fn end_watches(&self) {
        self.lock().epoch += 1;
        self.state.1.notify_all();
    }

    /// Forgets the history.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.compacted = state.version;
        state.log.clear();
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Requests with this verb whose target contains the text.
    pub(crate) fn count(&self, verb: &str, part: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.verb == verb && asked.target.contains(part))
            .count()
    }

    /// Watches of the resource that are open.
    pub(crate) fn open(&self, resource: &str) -> usize {
        self.lock().open.get(resource).copied().unwrap_or(0)
    }

    pub(crate) fn kubeconfig(&self, scratch: &Path, token: Option<&Path>) -> PathBuf {
        let mut cluster = json!({"server": self.url()});
        if let Some((_, ca)) = &self.tls {
            let path = scratch.join("ca.pem");
            fs::write(&path, ca).unwrap();
            cluster["certificate-authority"] = json!(path);
        }
        let user = token.map_or_else(|| json!({}), |path| json!({"tokenFile": path}));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = scratch.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Requests of one connection, until it is given to a watch or ends.
    fn serve(&self, stream: TcpStream) {
        if self.lock().faults.down {
            return;
        }
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some((config, _)) => {
                let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                Box::new(StreamOwned::new(connection, stream))
            }
        };
        let mut stream = BufReader::new(stream);
        while let Some((target, token)) = request(&mut stream) {
            if self
                .answer(stream.get_mut(), &target, token.as_deref())
                .is_none()
            {
                return;
            }
        }
    }

    /// `None` when the connection is over.
    fn answer(&self, stream: &mut dyn Stream, target: &str, token: Option<&str>) -> Option<()> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        let watch = query.contains("watch=true");
        let verb = match (resource.as_str(), watch) {
            ("version", _) => "get",
            (_, true) => "watch",
            (_, false) => "list",
        };
        let mut state = self.lock();
        let at = clock::instant();
        let target = target.to_owned();
        state.asked.push(Asked { at, verb, target });
        if state.faults.down {
            return None;
        }
        let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && wanted.as_deref() != token {
            drop(state);
            return refuse(stream, 401);
        }
        if let Some(code) = state.faults.refused.get(&format!("{verb} {resource}")) {
            let code = *code;
            drop(state);
            return refuse(stream, code);
        }
        if verb == "get" {
            let body = json!({"major": "1", "minor": state.minor.to_string()}).to_string();
            drop(state);
            return respond(stream, 200, &body);
        }
        drop(state);
        if watch {
            self.watch(stream, &resource, query);
            None
        } else {
            self.list(stream, &resource, query)
        }
    }

    fn list(&self, stream: &mut dyn Stream, resource: &str, query: &str) -> Option<()> {
        let (body, faults) = {
            let state = self.lock();
            (state.list(resource, query)?, state.faults.clone())
        };
        let Some(body) = body else {
            return refuse(stream, 410);
        };
        if faults.slow {
            stream.write_all(head(200, body.len()).as_bytes()).ok()?;
            for byte in body.as_bytes() {
                stream.write_all(&[*byte]).ok()?;
                stream.flush().ok()?;
                std::thread::sleep(Duration::from_secs(1));
            }
            return Some(());
        }
        if faults.cut_lists {
            stream.write_all(head(200, body.len()).as_bytes()).ok()?;
            stream
                .write_all(&body.as_bytes()[..body.len() * 2 / 3])
                .ok()?;
            return None;
        }
        respond(stream, 200, &body)
    }

    /// Events from the version on, until the epoch ends or the client goes.
    fn watch(&self, stream: &mut dyn Stream, resource: &str, query: &str) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.flush())
            .is_err()
        {
            return;
        }
        let (lock, condition) = &*self.state;
        let mut state = lock.lock().unwrap();
        let epoch = state.epoch;
        *state.open.entry(resource.to_owned()).or_default() += 1;
        let mut next = 0;
        let mut lines = state.first_lines(resource, query, &mut next);
        loop {
            let silent = state.faults.silent;
            let over = state.epoch != epoch || state.faults.down;
            drop(state);
            let cut = lines.iter().any(|(_, cut)| *cut);
            let text: String = lines.drain(..).map(|(line, _)| line).collect();
            let written = silent || text.is_empty() || chunk(stream, &text).is_some();
            let ended = over
                && !cut
                && stream
                    .write_all(b"0\r\n\r\n")
                    .and_then(|()| stream.flush())
                    .is_ok();
            state = lock.lock().unwrap();
            if cut || over || ended || !written {
                *state.open.entry(resource.to_owned()).or_default() -= 1;
                return;
            }
            if next == state.log.len() && state.epoch == epoch && !state.faults.down {
                state = condition.wait(state).unwrap();
            }
            next = next.min(state.log.len());
            lines = state.lines(resource, query, &mut next);
        }
    }
}
