//! Answers that do not come from the store, with a plausible status and plausible headers.

use super::*;

#[tokio::test]
async fn a_page_with_an_etag_is_not_the_object() {
    // nginx sends an ETag with every static file, including its maintenance page.
    let first = once();
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, _| {
        (call.operation == Operation::GetObject && first()).then(|| {
            Reply::new(200, "<html>maintenance</html>")
                .header("server", "nginx")
                .header("content-type", "text/html")
                .header("etag", "\"65f1c2d3-18\"")
        })
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "k").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_page_with_an_etag_is_no_newer_upload() {
    // The same page answers the DELETE, and the GET that checks its effect.
    let (deleted, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, _| {
        let hit = match call.operation {
            Operation::DeleteObject => deleted.fetch_add(1, Ordering::Relaxed) == 0,
            Operation::GetObject if deleted.load(Ordering::Relaxed) == 1 => {
                looked.fetch_add(1, Ordering::Relaxed) == 0
            }
            _ => false,
        };
        hit.then(|| {
            Reply::new(200, "<html>maintenance</html>")
                .header("server", "nginx")
                .header("content-type", "text/html")
                .header("etag", "\"65f1c2d3-18\"")
        })
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "k").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_page_with_an_etag_does_not_hide_the_copy_below() {
    // Before the deletion, versioning is switched on and the same bytes are uploaded again. After
    // the deletion of the upper version, a page answers the HEAD.
    let deleted = AtomicBool::new(false);
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, contents| match call
        .operation
    {
        Operation::HeadObject if call.count == 0 => {
            let objects = contents.bucket(BUCKET);
            let copy = objects.versions(&call.key).last().unwrap().clone();
            objects.versioning = Versioning::Enabled;
            objects.put(&call.key, copy);
            None
        }
        Operation::DeleteObject => {
            deleted.store(true, Ordering::Relaxed);
            None
        }
        Operation::HeadObject if deleted.swap(false, Ordering::Relaxed) => {
            Some(Reply::new(200, "").header("etag", "\"65f1c2d3-18\""))
        }
        _ => None,
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("both are deleted", || async { scene.store.versions(BUCKET, "k").is_empty() }).await;
}

#[tokio::test]
async fn an_empty_answer_is_no_folder_when_bytes_were_announced() {
    let first = once();
    let scene = scene(Versioning::Off, &[], move |call, _| {
        (call.operation == Operation::GetObject && first()).then(|| Reply::new(200, ""))
    })
    .await;
    let (_, etag) = scene.put("folder/", &eicar());
    let event = notification::put(BUCKET, "folder/", Some(68), Some(&etag));
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "folder/").is_none()
    })
    .await;
}
