//! A way to the API server that can be cut: connections end, and are refused, while the server lives on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct State {
    refusing: bool,
    open: Vec<TcpStream>,
}

/// Passes bytes on.
#[derive(Clone)]
pub(crate) struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// To the server at that port of loopback.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
        };
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that restarts refuses; so does the proxy then.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                    accepting.join(&client, &server);
                }
            }
        });
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends what is open.
    pub(crate) fn cut(&self) {
        for stream in self.state.lock().unwrap().open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Whether new connections end at once.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.state.lock().unwrap().refusing = refusing;
    }

    fn join(&self, client: &TcpStream, server: &TcpStream) {
        let mut state = self.state.lock().unwrap();
        if state.refusing {
            return;
        }
        for (from, to) in [(client, server), (server, client)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            state.open.push(from.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut bytes = [0; 16 << 10];
                while let Ok(read @ 1..) = from.read(&mut bytes) {
                    if to.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                drop(to.shutdown(Shutdown::Both));
            });
        }
    }
}
