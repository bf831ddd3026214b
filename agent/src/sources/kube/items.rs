//! The items of a list, one at a time while its body arrives: a list of 5,000 pods is 50 MiB, of which a node keeps one. Pure.

use serde::Deserialize;

/// An object larger than this is not used. etcd takes 1.5 MiB.
pub(super) const OBJECT_BYTES_MAX: usize = 2 << 20;
/// `metadata` of a list is some hundred bytes.
const META_BYTES_MAX: usize = 64 << 10;
/// Names of the fields of a list are shorter.
const KEY_BYTES_MAX: usize = 64;
/// Room that is kept from one item to the next.
const ROOM_KEPT: usize = 256 << 10;

/// One element of `items`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// Its JSON; whether it is well-formed inside is not known.
    Object(&'a [u8]),
    /// It has more than [`OBJECT_BYTES_MAX`].
    TooLarge,
}

/// What `metadata` of the list says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
    /// Where the next page begins; empty for the last.
    pub(super) r#continue: String,
}

/// The body is no list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoList(pub(super) &'static str);

/// Reads one body.
#[derive(Debug, Default)]
pub(super) struct Items {
    place: Place,
    nest: Nest,
    key: Vec<u8>,
    buffer: Vec<u8>,
    too_large: bool,
    meta: Option<Vec<u8>>,
}

/// Where in the list the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Field,
    Key,
    Colon,
    Value,
    Other,
    Items,
    Element,
    AfterElement,
    AfterValue,
    End,
}

impl Items {
    /// Takes the next bytes in; `item` is called for each element that they complete.
    ///
    /// # Errors
    /// This is no list; what was handed out before is not to be used.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut item: impl FnMut(Item<'_>),
    ) -> Result<(), NoList> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if matches!(self.place, Place::Element | Place::Other) {
                at += self.nested(&bytes[at..], &mut item)?;
                continue;
            }
            at += 1;
            if self.place == Place::Key {
                self.key_byte(*byte)?;
            } else if !byte.is_ascii_whitespace() && self.outside(*byte)? {
                // The first byte of a value belongs to it.
                at -= 1;
            }
        }
        Ok(())
    }

    /// What the list says of itself, now that the body has ended.
    ///
    /// # Errors
    /// It broke off, or has no `metadata` that makes sense.
    pub(super) fn finish(self) -> Result<ListMeta, NoList> {
        if self.place != Place::End {
            return Err(NoList("the list broke off"));
        }
        let meta = self.meta.ok_or(NoList("the list has no metadata"))?;
        serde_json::from_slice(&meta)
            .ok()
            .ok_or(NoList("metadata of the list makes no sense"))
    }

    /// A byte between values that is no white space. `true` if it begins a value.
    fn outside(&mut self, byte: u8) -> Result<bool, NoList> {
        self.place = match (self.place, byte) {
            (Place::Start, b'{') => Place::Field,
            (Place::Field, b'"') => {
                self.key.clear();
                Place::Key
            }
            (Place::Field | Place::AfterValue, b'}') => Place::End,
            (Place::Colon, b':') => Place::Value,
            (Place::Value, _) => return self.value(byte),
            (Place::Items | Place::AfterElement, b']') => Place::AfterValue,
            (Place::AfterElement, b',') => Place::Items,
            (Place::Items, _) => return Ok(self.begin(Place::Element)),
            (Place::AfterValue, b',') => Place::Field,
            _ => return Err(NoList("the answer is no list")),
        };
        Ok(false)
    }

    fn value(&mut self, byte: u8) -> Result<bool, NoList> {
        match (self.key.as_slice(), byte) {
            (b"items", b'[') => {
                self.place = Place::Items;
                Ok(false)
            }
            (b"items", b'n') => Ok(self.begin(Place::Other)),
            (b"items", _) => Err(NoList("the answer is no list")),
            (_, b'"' | b'{' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
                Ok(self.begin(Place::Other))
            }
            _ => Err(NoList("the answer is no list")),
        }
    }

    fn begin(&mut self, place: Place) -> bool {
        (self.place, self.nest, self.too_large) = (place, Nest::default(), false);
        self.buffer.clear();
        self.buffer.shrink_to(ROOM_KEPT);
        true
    }

    fn key_byte(&mut self, byte: u8) -> Result<(), NoList> {
        match byte {
            b'"' => self.place = Place::Colon,
            // No field of a list needs an escape.
            b'\\' => return Err(NoList("the answer is no list")),
            _ if self.key.len() < KEY_BYTES_MAX => self.key.push(byte),
            _ => return Err(NoList("the answer is no list")),
        }
        Ok(())
    }

    /// Bytes of a value; how many of them are the value's.
    fn nested(&mut self, bytes: &[u8], item: &mut impl FnMut(Item<'_>)) -> Result<usize, NoList> {
        let (used, over) = self.nest.scan(bytes);
        let element = self.place == Place::Element;
        let is_meta = !element && self.key == b"metadata";
        let room = if element {
            OBJECT_BYTES_MAX
        } else {
            META_BYTES_MAX
        };
        if self.buffer.len() + used > room {
            self.too_large = true;
            self.buffer = Vec::new();
        }
        if !self.too_large && (element || is_meta) {
            self.buffer.extend_from_slice(&bytes[..used]);
        }
        if over {
            self.place = if element {
                Place::AfterElement
            } else {
                Place::AfterValue
            };
            match (element, self.too_large) {
                (true, true) => item(Item::TooLarge),
                (true, false) => item(Item::Object(&self.buffer)),
                (false, true) if is_meta => {
                    return Err(NoList("metadata of the list makes no sense"));
                }
                (false, _) if is_meta => self.meta = Some(std::mem::take(&mut self.buffer)),
                (false, _) => {}
            }
        }
        Ok(used)
    }
}

/// Where in a value the next byte is.
#[derive(Clone, Copy, Debug, Default)]
struct Nest {
    depth: usize,
    string: bool,
    escaped: bool,
    begun: bool,
}

impl Nest {
    /// How many of the bytes are the value's, and whether it is over after them.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.string {
                match (self.escaped, byte) {
                    (true, _) => self.escaped = false,
                    (false, b'\\') => self.escaped = true,
                    (false, b'"') => {
                        self.string = false;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    (false, _) => {}
                }
                continue;
            }
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return (at + 1, true),
                // A number or a word ends where something else begins.
                b'}' | b']' | b',' if self.depth == 0 => return (at, true),
                _ if self.depth == 0 && self.begun && byte.is_ascii_whitespace() => {
                    return (at, true);
                }
                _ => {}
            }
            self.begun = true;
        }
        (bytes.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Item, Items, ListMeta, NoList, OBJECT_BYTES_MAX};

    /// The items of a body that arrives in pieces of this size, and what the list says of itself.
    fn read(body: &[u8], piece: usize) -> (Vec<String>, Result<ListMeta, NoList>) {
        let (mut items, mut found) = (Items::default(), Vec::new());
        for bytes in body.chunks(piece) {
            let pushed = items.push(bytes, |item| {
                found.push(match item {
                    Item::Object(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    Item::TooLarge => "too large".to_owned(),
                });
            });
            if let Err(error) = pushed {
                return (found, Err(error));
            }
        }
        (found, items.finish())
    }

    #[test]
    fn items_come_in_order_whatever_the_pieces() {
        let body = r#" {"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"10","continue":"a\"]b"},
            "items" : [ {"a":"}]\"\\"}, 7 ,null,[1,[2]],"x,]", {} ],"more":[{"items":[1]}]} "#;
        for piece in 1..body.len() {
            let (items, meta) = read(body.as_bytes(), piece);
            assert_eq!(
                items,
                [
                    r#"{"a":"}]\"\\"}"#,
                    "7",
                    "null",
                    "[1,[2]]",
                    r#""x,]""#,
                    "{}"
                ],
                "{piece}"
            );
            let meta = meta.unwrap();
            assert_eq!(
                (meta.resource_version.as_str(), meta.r#continue.as_str()),
                ("10", "a\"]b")
            );
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (body, items) in [
            ("", 0),
            ("[]", 0),
            ("{", 0),
            ("<html>", 0),
            (r#"{"items":[]}"#, 0),
            (r#"{"items":{},"metadata":{}}"#, 0),
            (r#"{"items":[{}"#, 1),
            (r#"{"items":[{}],"metadata":{"resourceVersion":7}}"#, 1),
            (r#"{"items":[{} {}],"metadata":{}}"#, 1),
            (r#"{"items":[],"metadata":{}} {"#, 0),
            (r#"{"ite\u006ds":[]}"#, 0),
        ] {
            let (found, meta) = read(body.as_bytes(), 3);
            assert!(meta.is_err(), "{body}");
            assert_eq!(found.len(), items, "{body}");
        }
        assert_eq!(
            read(br#"{"items":null,"metadata":{}}"#, 2),
            (vec![], Ok(ListMeta::default()))
        );
    }

    #[test]
    fn an_object_over_the_limit_costs_only_itself() {
        let large = "x".repeat(OBJECT_BYTES_MAX);
        let body = json!({"metadata": {"resourceVersion": "1"}, "items": [{"a": 1}, {"a": large}, {"a": 2}]});
        let (items, meta) = read(body.to_string().as_bytes(), 64 << 10);
        assert_eq!(items, [r#"{"a":1}"#, "too large", r#"{"a":2}"#]);
        assert_eq!(meta.unwrap().resource_version, "1");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            proptest::sample::select(&["]", "}", "\\", "\"", "{\"items\":[", ","][..])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_items_are_found(items in proptest::collection::vec(value(), 0..6), piece in 1_usize..40, pretty: bool) {
            let list = json!({"apiVersion": "v1", "items": items, "metadata": {"resourceVersion": "5"}, "z": items});
            let body = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) }.unwrap();
            let (found, meta) = read(body.as_bytes(), piece);
            let found: Vec<Value> = found.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(found, items);
            prop_assert_eq!(meta.unwrap().resource_version, "5");
        }

        #[test]
        fn any_bytes_are_taken_or_refused(body in proptest::collection::vec(proptest::sample::select(&b"{}[]\",:\\ itemsna1"[..]), 0..60), piece in 1_usize..9) {
            let (_, meta) = read(&body, piece);
            if meta.is_ok() {
                let whole: Value = serde_json::from_slice(&body).unwrap_or_default();
                prop_assert!(whole.is_object() || whole.is_null());
            }
        }
    }
}
