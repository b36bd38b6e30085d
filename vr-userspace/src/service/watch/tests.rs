use std::{io::Write, os::unix::fs::symlink, time::Duration};

use super::*;

/// What is told of `work`, up to the first quiet moment.
async fn told(watch: &mut Watch, work: impl FnOnce()) -> Vec<Event> {
    work();
    let mut events = Vec::new();
    let quiet = Duration::from_millis(200);
    while let Ok(more) = tokio::time::timeout(quiet, watch.events()).await {
        events.extend(more.unwrap());
    }
    events.dedup();
    events
}

fn in_a_runtime(work: impl AsyncFnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    // What the system's own directory for such is a link to would only be one more link.
    let path = fs::canonicalize(dir.path()).unwrap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work(&path));
}

#[test]
fn a_file_is_written_in_pieces_and_closed() {
    in_a_runtime(async |dir| {
        let path = dir.join("f.yaml");
        let mut watch = Watch::new(&path).unwrap();
        let mut file = None;
        for _ in 0..2 {
            let events = told(&mut watch, || file = Some(fs::File::create(&path).unwrap())).await;
            assert_eq!(events, [Event::Written]);
            let events = told(&mut watch, || {
                file.as_mut().unwrap().write_all(b"a").unwrap();
            })
            .await;
            assert_eq!(events, [Event::Written]);
            assert_eq!(
                told(&mut watch, || drop(file.take())).await,
                [Event::Closed]
            );
        }
        let others = told(&mut watch, || fs::write(dir.join("g.yaml"), "x").unwrap()).await;
        assert_eq!(others, [], "another file");
    });
}

#[test]
fn a_file_is_renamed_over_linked_and_removed() {
    in_a_runtime(async |dir| {
        let (path, new) = (dir.join("f.yaml"), dir.join("new"));
        let mut watch = Watch::new(&path).unwrap();
        for _ in 0..2 {
            fs::write(&new, "x").unwrap();
            let events = told(&mut watch, || fs::rename(&new, &path).unwrap()).await;
            assert_eq!(events, [Event::Replaced]);
        }
        let events = told(&mut watch, || fs::remove_file(&path).unwrap()).await;
        assert_eq!(events, [Event::Replaced]);
        fs::write(&new, "x").unwrap();
        let events = told(&mut watch, || fs::hard_link(&new, &path).unwrap()).await;
        assert_eq!(events, [Event::Replaced], "nobody has it open");
    });
}

#[test]
fn a_file_behind_links_that_are_swapped() {
    in_a_runtime(async |dir| {
        for version in ["one", "two"] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("f.yaml"), version).unwrap();
        }
        symlink("one", dir.join("now")).unwrap();
        symlink("now/f.yaml", dir.join("f.yaml")).unwrap();
        let path = dir.join("f.yaml");
        let mut watch = Watch::new(&path).unwrap();
        let events = told(&mut watch, || {
            symlink("two", dir.join("next")).unwrap();
            fs::rename(dir.join("next"), dir.join("now")).unwrap();
        })
        .await;
        assert_eq!(events, [Event::Replaced]);
        // Now this one is the file, and the other is not.
        let write = |version: &str| fs::write(dir.join(version).join("f.yaml"), "new").unwrap();
        assert!(
            told(&mut watch, || write("two"))
                .await
                .contains(&Event::Closed)
        );
        assert_eq!(told(&mut watch, || write("one")).await, []);
    });
}

#[test]
fn a_file_in_a_directory_that_is_there_only_later() {
    in_a_runtime(async |dir| {
        let path = dir.join("a/b/f.yaml");
        let mut watch = Watch::new(&path).unwrap();
        for _ in 0..2 {
            let events = told(&mut watch, || fs::create_dir_all(dir.join("a/b")).unwrap()).await;
            assert_eq!(events.last(), Some(&Event::Replaced));
            let events = told(&mut watch, || fs::write(&path, "x").unwrap()).await;
            assert_eq!(events, [Event::Written, Event::Closed]);
            let events = told(&mut watch, || fs::remove_dir_all(dir.join("a")).unwrap()).await;
            assert_eq!(events.last(), Some(&Event::Replaced));
        }
    });
}

#[test]
fn links_in_a_circle_end() {
    in_a_runtime(async |dir| {
        symlink("b", dir.join("a")).unwrap();
        symlink("a", dir.join("b")).unwrap();
        let mut watch = Watch::new(&dir.join("a")).unwrap();
        let events = told(&mut watch, || fs::remove_file(dir.join("a")).unwrap()).await;
        assert_eq!(events, [Event::Replaced]);
    });
}
