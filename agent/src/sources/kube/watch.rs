//! One watch: lists once, follows from there, and begins again where it broke off, for as long as the agent runs.
//!
//! Written here and not taken from kube's runtime, because of what comes back: a body is read as it arrives, so that a list
//! of the whole cluster is never in memory, and one object that makes no sense costs that object and not the list.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use kube::client::Body;
use plumbline_core::time::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::objects::ObjectError;
use super::access::Access;
use super::event::{self, Event};
use super::items::{Item, Items};
use super::lines::{Line, Lines};
use super::pace::{Pace, Pacing, random};
use super::table::Table;
use super::trouble::{Failure, Trouble, chain};
use crate::clock;

/// Objects of one further page, where the server gives lists in pages.
const PAGE: u32 = 500;
/// Of an answer that says what is wrong, this much is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// A watch that ends sooner than this, and brought nothing, was refused in effect.
const ENDED_AT_ONCE: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    /// For people, and the metric: `pods`.
    pub(super) name: &'static str,
    /// `/api/v1/pods`.
    pub(super) path: String,
    /// `fieldSelector`, made of characters that need no escape but `=`.
    pub(super) fields: Option<String>,
}

/// What a watch knows and how it is doing. Never locked across an await.
#[derive(Debug)]
pub(super) struct Store<T> {
    pub(super) table: Table<T>,
    /// The table changed since this was last set to `false`.
    pub(super) changed: bool,
    pub(super) trouble: Option<Trouble>,
    /// When what is known stopped to be current; `None` while a watch is open.
    pub(super) broke: Option<Timestamp>,
}

/// A store and who waits for it.
#[derive(Debug)]
pub(super) struct Shared<T> {
    store: Arc<Mutex<Store<T>>>,
    news: Arc<Notify>,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            news: Arc::clone(&self.news),
        }
    }
}

impl<T: PartialEq> Shared<T> {
    pub(super) fn new(resource: &'static str, news: &Arc<Notify>) -> Self {
        let store = Store {
            table: Table::new(resource),
            changed: false,
            trouble: None,
            broke: Some(clock::monotonic()),
        };
        Self {
            store: Arc::new(Mutex::new(store)),
            news: Arc::clone(news),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Store<T>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table; tells those who wait if that changed anything.
    fn change(&self, by: impl FnOnce(&mut Table<T>) -> bool) {
        let mut store = self.lock();
        if by(&mut store.table) {
            store.changed = true;
            self.news.notify_one();
        }
    }

    /// The server answered as it should; `open`: with a watch on what is known.
    fn well(&self, open: bool) {
        let mut store = self.lock();
        if open && store.table.synced() {
            store.broke = None;
        }
        if store.trouble.take().is_some() {
            self.news.notify_one();
        }
    }

    /// The request ended. `since`: as of when nothing is known any more.
    fn ended(&self, trouble: Option<Trouble>, since: Timestamp) {
        let mut store = self.lock();
        store.broke.get_or_insert(since);
        if let Some(mut new) = trouble {
            if let Some(former) = &store.trouble {
                new.since = former.since;
            }
            store.trouble = Some(new);
            self.news.notify_one();
        }
    }
}

/// A watch of one resource.
pub(super) struct Watch<T> {
    resource: Resource,
    access: Arc<Access>,
    convert: fn(Value) -> Result<T, ObjectError>,
    store: Shared<T>,
    pacing: Pacing,
    pace: Pace,
    /// Where to go on; `None`: from the beginning.
    version: Option<String>,
    /// When something was last heard of the server.
    heard: Timestamp,
}

impl<T: PartialEq> Watch<T> {
    pub(super) fn new(
        resource: Resource,
        access: &Arc<Access>,
        convert: fn(Value) -> Result<T, ObjectError>,
        store: &Shared<T>,
        pacing: Pacing,
    ) -> Self {
        Self {
            resource,
            access: Arc::clone(access),
            convert,
            store: store.clone(),
            pacing,
            pace: Pace::new(pacing),
            version: None,
            heard: clock::monotonic(),
        }
    }

    /// Until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let verb = if self.version.is_some() {
                "watch"
            } else {
                "list"
            };
            let failure = match self.step().await {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            let now = clock::instant();
            if failure == Failure::Gone {
                self.version = None;
            }
            let trouble = Trouble::of(verb, self.resource.name, &failure, now);
            if let Some(Trouble { text, .. }) = &trouble {
                tracing::debug!(reason = text, "a request to the API server ended");
            }
            // Of a watch that is silent, nothing is known since the last that was heard.
            let silent = matches!(failure, Failure::Silent(_));
            let since = if silent {
                self.heard
            } else {
                clock::monotonic()
            };
            self.store.ended(trouble, since);
            let wait = self.pace.after(&failure, now, random());
            tokio::time::sleep(wait).await;
        }
    }

    /// One request. `Ok` when the next one may follow at once.
    async fn step(&mut self) -> Result<(), Failure> {
        if let Some(version) = self.version.clone() {
            return self.follow(&version).await;
        }
        self.pace.listing(clock::instant());
        if self.access.streams().await? {
            return match self.stream().await {
                // Such a server does not want it after all.
                Err(
                    Failure::Status {
                        code: 400 | 422, ..
                    }
                    | Failure::Silent(_),
                ) if self.version.is_none() => {
                    self.access.no_streams().await;
                    Ok(())
                }
                other => other,
            };
        }
        let limit = self.pacing.list;
        let listed = timeout(limit, self.list()).await;
        listed.unwrap_or(Err(Failure::Slow(limit)))
    }

    /// A list as such, in pages if the server wants that.
    async fn list(&mut self) -> Result<(), Failure> {
        self.store.lock().table.begin();
        // From the server's cache and not from etcd; a limit would make it a quorum read after all.
        let mut query = vec!["resourceVersion=0".to_owned()];
        loop {
            let body = self.answer(&query).await?;
            let meta = self.read_list(body).await?;
            if meta.r#continue.is_empty() {
                return self.complete(meta.resource_version);
            }
            let token = percent_encoding::utf8_percent_encode(
                &meta.r#continue,
                percent_encoding::NON_ALPHANUMERIC,
            );
            query = vec![format!("limit={PAGE}"), format!("continue={token}")];
        }
    }

    async fn read_list(&mut self, mut body: Body) -> Result<super::items::ListMeta, Failure> {
        let mut items = Items::default();
        let refused = |error: super::items::NoList| Failure::Malformed(error.0.to_owned());
        while let Some(bytes) = self.next(&mut body).await? {
            let mut store = self.store.lock();
            let table = &mut store.table;
            let pushed = items.push(&bytes, |item| match item {
                Item::Object(bytes) => {
                    let (key, entry) = event::item(bytes, self.convert);
                    table.listed(key, entry);
                }
                Item::TooLarge => table.count_problem(),
            });
            pushed.map_err(refused)?;
        }
        items.finish().map_err(refused)
    }

    /// A list as the beginning of a watch.
    async fn stream(&mut self) -> Result<(), Failure> {
        self.store.lock().table.begin();
        let query = self.watch_query(&[
            "sendInitialEvents=true",
            "resourceVersionMatch=NotOlderThan",
            "resourceVersion=0",
        ]);
        let mut listing = true;
        let body = self.answer(&query).await?;
        self.events(body, &mut listing).await
    }

    /// The watch that goes on where the last request ended.
    async fn follow(&mut self, version: &str) -> Result<(), Failure> {
        let query = self.watch_query(&[&format!("resourceVersion={version}")]);
        let body = self.answer(&query).await?;
        self.store.well(true);
        self.events(body, &mut false).await
    }

    fn watch_query(&self, more: &[&str]) -> Vec<String> {
        let seconds = self.pace.watch_seconds(random());
        let mut query = vec![
            "watch=true".to_owned(),
            "allowWatchBookmarks=true".to_owned(),
            format!("timeoutSeconds={seconds}"),
        ];
        query.extend(more.iter().map(|part| (*part).to_owned()));
        query
    }

    /// Takes events in until the body ends. `listing`: the objects that are there come first.
    async fn events(&mut self, mut body: Body, listing: &mut bool) -> Result<(), Failure> {
        let begun = clock::instant();
        let mut lines = Lines::default();
        let mut any = false;
        while let Some(bytes) = self.next(&mut body).await? {
            any = true;
            let (mut failure, mut complete) = (None, None);
            lines.push(&bytes, |line| {
                if failure.is_none() {
                    match self.event(&line, listing) {
                        Ok(Some(version)) => complete = Some(version),
                        Ok(None) => {}
                        Err(error) => failure = Some(error),
                    }
                }
            });
            if let Some(version) = complete {
                self.complete(version)?;
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            self.pace.succeeded();
            self.store.well(!*listing);
        }
        if lines.is_within() || *listing {
            return Err(Failure::Malformed("the answer broke off".into()));
        }
        let lived = any || clock::instant().duration_since(begun) >= ENDED_AT_ONCE;
        Err(if lived {
            Failure::Ended
        } else {
            Failure::EndedAtOnce
        })
    }

    /// Takes one event in. With a version, the initial list is complete.
    fn event(&mut self, line: &Line<'_>, listing: &mut bool) -> Result<Option<String>, Failure> {
        let Line::Whole(line) = line else {
            self.store.lock().table.count_problem();
            return Ok(None);
        };
        let (event, version) = event::read(line, self.convert);
        match event {
            Event::Applied(key, entry) if *listing => self.store.lock().table.listed(key, entry),
            Event::Applied(key, entry) => self.store.change(|table| table.apply(key, entry)),
            Event::Deleted(key) => self.store.change(|table| table.delete(&key)),
            Event::Bookmark(true) if *listing => {
                *listing = false;
                return Ok(Some(version.unwrap_or_default()));
            }
            Event::Bookmark(_) => {}
            Event::Error { code: 410, .. } => return Err(Failure::Gone),
            Event::Error { code, message } => {
                let retry_after = None;
                return Err(Failure::Status {
                    code,
                    message,
                    retry_after,
                });
            }
            Event::Nonsense => self.store.lock().table.count_problem(),
        }
        if let (false, Some(version)) = (*listing, version) {
            self.version = Some(version);
        }
        Ok(None)
    }

    /// All objects that are there are known, as of this version.
    fn complete(&mut self, version: String) -> Result<(), Failure> {
        if version.is_empty() {
            return Err(no_version());
        }
        self.version = Some(version);
        self.pace.succeeded();
        self.store.change(Table::done);
        self.store.well(true);
        Ok(())
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Failure> {
        let idle = self.pacing.idle;
        loop {
            let frame = timeout(idle, body.frame()).await;
            let frame = frame.ok().ok_or(Failure::Silent(idle))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Failure::Transport(chain(&error)))?;
            self.heard = clock::monotonic();
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The body of an answer with success.
    async fn answer(&mut self, query: &[String]) -> Result<Body, Failure> {
        let fields = self.resource.fields.as_ref();
        let fields = fields.map(|fields| format!("fieldSelector={}", fields.replace('=', "%3D")));
        let query: Vec<&str> = fields.iter().chain(query).map(String::as_str).collect();
        let path = format!("{}?{}", self.resource.path, query.join("&"));
        let idle = self.pacing.idle;
        let (answer, generation) = timeout(idle, self.access.get(&path))
            .await
            .ok()
            .ok_or(Failure::Silent(idle))?;
        let answer = answer?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let failure = refusal(answer, idle).await;
        if failure.is_unauthorized() {
            self.access.renew(generation).await;
        }
        Err(failure)
    }
}

fn no_version() -> Failure {
    Failure::Malformed("the server does not say which version it sent".into())
}

/// What an answer without success says.
async fn refusal(answer: Response<Body>, patience: Duration) -> Failure {
    let (parts, body) = answer.into_parts();
    let code = parts.status.as_u16();
    if code == 410 {
        return Failure::Gone;
    }
    let seconds = parts.headers.get(http::header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    let limited = http_body_util::Limited::new(body, ERROR_BYTES_MAX).collect();
    let body = timeout(patience, limited).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
    let value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    Failure::Status {
        code,
        message: event::status(&value).1,
        retry_after: seconds.map(Duration::from_secs),
    }
}

/// When a store's outage becomes news, and its text if it is.
pub(super) fn verdict<T>(store: &Store<T>, now: Instant) -> (Option<Instant>, Option<&Trouble>) {
    let Some(trouble) = &store.trouble else {
        return (None, None);
    };
    if trouble.is_news(now) {
        (None, Some(trouble))
    } else {
        (Some(trouble.since + super::trouble::OUTAGE_GRACE), None)
    }
}
