use std::os::unix::fs::PermissionsExt as _;

use plumbline_core::findings::{PastRecord, Remembered};
use plumbline_core::observation::Health;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::Timestamp;

use super::keeper::Keeper;
use super::{NAME, NEW, QUARANTINE, Store, encode};

fn node(name: &str) -> NodeIdentity {
    NodeIdentity {
        node: Some(name.into()),
        ..NodeIdentity::default()
    }
}

fn remembered(count: usize) -> Remembered {
    let past = |n| PastRecord {
        fingerprint: format!("{n:032x}"),
        rule: "P001".into(),
        first_seen: 1,
        resolved: 2,
        occurrences: 3,
        reopened: 4,
        flaps: 5,
    };
    Remembered {
        open: Vec::new(),
        past: (0..count).map(past).collect(),
    }
}

#[test]
fn what_is_saved_is_loaded_and_nobody_else_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/here");
    let store = Store::open(&path).unwrap();
    assert_eq!(
        store.load(&node("a")).unwrap().remembered,
        Remembered::default()
    );
    store
        .save(&encode(&node("a"), remembered(3)).unwrap())
        .unwrap();
    assert_eq!(store.load(&node("a")).unwrap().remembered, remembered(3));
    assert!(
        Store::open(&path)
            .unwrap_err()
            .to_string()
            .contains("another agent")
    );
    drop(store);
    Store::open(&path).unwrap();
    let mode = std::fs::metadata(path.join(NAME))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "names and addresses are nobody else's");
}

#[test]
fn a_file_that_was_cut_or_changed_anywhere_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let good = encode(&node("a"), remembered(2)).unwrap();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        bad.push(changed);
    }
    bad.push([good.as_slice(), b" "].concat());
    bad.push(b"plumbline-findings 2 0\n{}".to_vec());
    bad.push(vec![0xff; 100]);
    for bytes in bad {
        std::fs::write(directory.path().join(NAME), &bytes).unwrap();
        let loaded = store.load(&node("a")).unwrap();
        assert!(
            loaded.quarantined.is_some(),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(loaded.remembered, Remembered::default());
        assert_eq!(
            std::fs::read(directory.path().join(QUARANTINE)).unwrap(),
            bytes
        );
        assert_eq!(store.load(&node("a")).unwrap(), super::Loaded::default());
    }
}

#[test]
fn the_file_of_another_node_is_not_ours() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store
        .save(&encode(&node("a"), remembered(1)).unwrap())
        .unwrap();
    let loaded = store.load(&node("b")).unwrap();
    assert_eq!(
        loaded.quarantined.as_deref(),
        Some("it is about another node")
    );
}

#[test]
fn a_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    for name in [NAME, NEW] {
        std::os::unix::fs::symlink(&secret, directory.path().join(name)).unwrap();
    }
    assert!(store.load(&node("a")).is_err());
    assert!(store.save(b"x").is_err());
    assert_eq!(std::fs::read(secret).unwrap(), b"secret");
}

#[test]
fn where_it_cannot_be_written_the_probe_says_so_and_it_heals() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keeper, _) = Keeper::start(directory.path(), &node("a"));
    assert_eq!(keeper.news().unwrap().health, Health::Ok);
    assert_eq!(keeper.news(), None, "told once");
    // A directory where the new file is to be: root writes through permissions, but not through this.
    std::fs::create_dir(directory.path().join(NEW)).unwrap();
    let mut now = Timestamp(0);
    let mut step = |keeper: &mut Keeper, changed| {
        now = now.plus(std::time::Duration::from_secs(5));
        keeper.keep(changed, now, || remembered(1));
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    let mut until = |keeper: &mut Keeper, done: &dyn Fn(&Keeper) -> bool| {
        for _ in 0..20_000 {
            step(keeper, false);
            if done(keeper) {
                return;
            }
        }
        panic!("{:?}", keeper.stats());
    };
    until(&mut keeper, &|keeper| keeper.stats().failed > 0);
    let news = keeper.news().unwrap();
    assert_eq!(news.health, Health::Broken);
    std::fs::remove_dir(directory.path().join(NEW)).unwrap();
    until(&mut keeper, &|keeper| keeper.stats().saved > 0);
    until(&mut keeper, &|keeper| keeper.stats().trouble.is_none());
    assert_eq!(keeper.news().unwrap().health, Health::Ok);
    keeper.finish(remembered(7));
    let (keeper, last) = Keeper::start(directory.path(), &node("a"));
    assert_eq!(last, remembered(7));
    // A second agent does without, and says so.
    let (mut second, nothing) = Keeper::start(directory.path(), &node("a"));
    assert_eq!(nothing, Remembered::default());
    assert_eq!(second.news().unwrap().health, Health::Broken);
    second.finish(remembered(0));
    keeper.finish(remembered(7));
    assert_eq!(
        Store::open(directory.path())
            .unwrap()
            .load(&node("a"))
            .unwrap()
            .remembered,
        remembered(7)
    );
}
