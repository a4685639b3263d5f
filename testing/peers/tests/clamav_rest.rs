//! The clamav-rest double misbehaves as the original does: every row of the measurements, with a
//! scripted clamd.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use peers::ClamavRest;
use peers::scripted::tcp::{Act, Server, Session};
use reqwest::multipart::{Form, Part};

async fn upload(double: &ClamavRest, path: &str, name: &str, size: usize) -> (u16, String) {
    let part = Part::bytes(vec![b'x'; size]).file_name(name.to_owned());
    post(double, path, Form::new().part("file", part)).await
}

async fn post(double: &ClamavRest, path: &str, form: Form) -> (u16, String) {
    let url = format!("{}{path}", double.url());
    let answer = reqwest::Client::new().post(url).multipart(form).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A double in front of a clamd that does one thing when a file has arrived.
async fn in_front_of(act: Act) -> (ClamavRest, Server) {
    let clamd = Server::start(move |_| act.clone());
    let double = ClamavRest::start(&clamd.address().to_string(), false).await.unwrap();
    (double, clamd)
}

fn line(text: &str) -> Act {
    Act::say(format!("{text}\n"))
}

#[tokio::test]
async fn statuses_follow_the_line_that_clamd_says() {
    let rows = [
        ("stream: OK", 200, "OK", ""),
        ("stream: Eicar FOUND", 406, "FOUND", "Eicar"),
        ("stream: Can't allocate memory ERROR", 400, "ERROR", "Can't allocate memory"),
    ];
    for (said, status, word, description) in rows {
        let (double, _clamd) = in_front_of(line(said)).await;
        let v1 = format!(r#"{{"Status":"{word}","Description":"{description}"}}"#);
        assert_eq!(upload(&double, "/scan", "x", 10).await, (status, v1));
        let v2 = format!(r#"[{{"Status":"{word}","Description":"{description}","FileName":"x"}}]"#);
        assert_eq!(upload(&double, "/v2/scan", "d/x", 10).await, (status, v2));
    }
}

#[tokio::test]
async fn lines_that_do_not_parse_are_412_and_not_handed_on_even_when_they_say_found() {
    for said in [
        "COMMAND READ TIMED OUT",
        "stream: Sig:nature FOUND",
        "INSTREAM size limit exceeded. ERROR",
    ] {
        let (double, _clamd) = in_front_of(line(said)).await;
        let bare = r#"{"Status":"PARSE ERROR","Description":"Regex had no matches"}"#;
        assert_eq!(upload(&double, "/scan", "x", 10).await, (412, bare.to_owned()), "{said}");
        let listed =
            r#"[{"Status":"PARSE ERROR","Description":"Regex had no matches","FileName":"x"}]"#;
        assert_eq!(upload(&double, "/v2/scan", "x", 10).await, (412, listed.to_owned()), "{said}");
    }
}

#[tokio::test]
async fn a_clamd_that_goes_away_silently_looks_like_success() {
    for act in [Act::close(), Act::reset(), Act::say("stream: O")] {
        let (double, _clamd) = in_front_of(act).await;
        assert_eq!(upload(&double, "/scan", "x", 10).await, (200, String::new()));
        assert_eq!(upload(&double, "/v2/scan", "x", 10).await, (200, "[]".into()));
    }
}

#[tokio::test]
async fn a_clamd_that_is_down_or_crashes_looks_like_a_large_file() {
    let double = ClamavRest::start("127.0.0.1:1", false).await.unwrap();
    let down = upload(&double, "/v2/scan", "x", 10).await;
    let crash = |_: &Session| Some(Act::reset().after_bytes(1000));
    let clamd = Server::start_with_early(crash, |_| Act::close());
    let double = ClamavRest::start(&clamd.address().to_string(), false).await.unwrap();
    let crashed = upload(&double, "/v2/scan", "x", 50_000_000).await;
    for (status, body) in [down, crashed] {
        assert!(status == 413 && body.contains("File size limit exceeded"), "{status} {body}");
    }
}

#[tokio::test]
async fn names_and_parts_that_are_missing() {
    let (double, _clamd) = in_front_of(line("stream: OK")).await;
    let nameless = || Form::new().part("file", Part::bytes(b"x".to_vec()));
    assert_eq!(post(&double, "/scan", nameless()).await, (200, String::new()));
    assert_eq!(post(&double, "/v2/scan", nameless()).await.0, 422);
    let url = format!("{}/v2/scan", double.url());
    let empty =
        reqwest::Client::new().post(url).header("content-type", "multipart/form-data; boundary=B");
    let answer = empty.body("--B--\r\n").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &*answer.text().await.unwrap()), (200, "[]"));
}

#[tokio::test]
async fn a_form_that_breaks_off_between_parts_cuts_the_connection() {
    let (double, _clamd) = in_front_of(line("stream: OK")).await;
    let url = format!("{}/scan", double.url());
    let form = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nabc";
    let request =
        reqwest::Client::new().post(url).header("content-type", "multipart/form-data; boundary=B");
    assert!(request.body(form).send().await.is_err());
}

#[tokio::test]
async fn old_releases_know_the_first_dialect_alone() {
    let clamd = Server::start(|_| line("stream: OK"));
    let double = ClamavRest::start(&clamd.address().to_string(), true).await.unwrap();
    assert_eq!(upload(&double, "/v2/scan", "x", 10).await.0, 404);
    assert_eq!(upload(&double, "/scan", "x", 10).await.0, 200);
}

#[tokio::test]
async fn the_version_is_that_of_clamd() {
    let clamd = Server::start(|_| line("ClamAV 1.4.6/27000/Mon Nov 16 09:00:00 2026"));
    let double = ClamavRest::start(&clamd.address().to_string(), false).await.unwrap();
    let body =
        reqwest::get(format!("{}/version", double.url())).await.unwrap().text().await.unwrap();
    assert_eq!(body, r#"{"Clamav":"ClamAV 1.4.6/27000/Mon Nov 16 09:00:00 2026"}"#);
}
