use std::time::{Duration, SystemTime};

use super::*;
use crate::failure::Stage;
use crate::health::{Note, QueueKind, RunningSweep};
use crate::overview::{EngineLine, Received, ResultLine, Step};

/// What an uploader may choose: markup, quotes, control characters, text that turns its direction.
const HOSTILE: &str = "a<script>alert(1)</script>\"' onload=x&amp;\u{202e}\u{7}\u{1b}[2J\r\nend";

fn shown() -> Shown {
    let shown = Shown { quarantine: Some("held".to_owned()), ..Shown::default() };
    for part in [Part::Broker, Part::Store, Part::Engine] {
        shown.health.up(part);
    }
    shown.health.set_queues(vec![nothing_waits()]);
    shown
}

fn nothing_waits() -> QueueDepth {
    QueueDepth {
        queue: QueueKind::Notifications,
        ready: Some(0),
        retry: 0,
        dead: Some(0),
        missing: Vec::new(),
    }
}

#[test]
fn it_is_not_calm_about_what_it_does_not_know() {
    let shown = shown();
    assert!(html(&shown, false).unwrap().contains("Scanning. Nothing needs you."));
    shown.health.set_queues(Vec::new());
    let page = html(&shown, false).unwrap();
    assert!(page.contains("How much waits or is parked is not known."), "{page}");
    assert!(!page.contains("Nothing needs you"), "{page}");
}

#[test]
fn a_queue_that_is_missing_is_named_and_the_others_are_counted() {
    let shown = shown();
    let dead = "uploads.reports.dead".to_owned();
    let reports = QueueDepth {
        queue: QueueKind::Reports,
        ready: Some(4321),
        dead: None,
        missing: vec![dead],
        ..nothing_waits()
    };
    shown.health.set_queues(vec![nothing_waits(), reports]);
    let page = html(&shown, false).unwrap();
    for part in [
        "Scanning, and one thing needs a look.",
        "<li>the queue uploads.reports.dead is missing: somebody deleted it",
        "<small>missing: uploads.reports.dead</small>",
        "<td class=\"n\">4,321</td>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

fn result(key: &str) -> ResultLine {
    ResultLine {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(3723),
        bucket: "uploads".to_owned(),
        key: key.to_owned(),
        version: Some(HOSTILE.to_owned()),
        size: Some(2048),
        status: "infected",
        finding: Some(format!("Sig.{HOSTILE}")),
        action: "tag",
        error: Some("delete_denied"),
        trigger: "upload",
    }
}

#[test]
fn what_others_chose_is_text() {
    let shown = shown();
    let _work = shown.overview.in_work.begin("uploads", HOSTILE, "upload");
    shown.overview.results.add(result(HOSTILE));
    shown.overview.set_engine(EngineLine {
        name: "clamd",
        version: Some(HOSTILE.to_owned()),
        database: Some(HOSTILE.to_owned()),
        database_date: None,
    });
    shown.health.down(Part::Webhook, HOSTILE);
    shown.health.note(Note::Surge, Some(HOSTILE.to_owned()));
    let sweep = RunningSweep { prefix: HOSTILE.to_owned(), ..RunningSweep::default() };
    shown.health.set_sweeps([(HOSTILE.to_owned(), sweep)].into());
    let page = html(&shown, false).unwrap();
    assert!(page.matches("a&#60;script&#62;alert(1)&#60;/script&#62;").count() >= 8, "{page}");
    for bad in ["<script", "\u{202e}", "\u{7}", "\u{1b}", "\r", "\" onload", "' onload"] {
        assert!(!page.contains(bad), "{bad:?}");
    }
}

#[test]
fn what_is_invisible_is_written_out_and_combining_marks_stay_with_their_letter() {
    for character in [
        '\u{3164}',
        '\u{115f}',
        '\u{1160}',
        '\u{2800}',
        '\u{ffa0}',
        '\u{34f}',
        '\u{200b}',
        '\u{fe0f}',
        '\u{e0041}',
        '\u{a0}',
        '\u{2028}',
    ] {
        let code = u32::from(character);
        assert_eq!(plain(&format!("a{character}b")), format!("a\\u{{{code:x}}}b"));
    }
    for honest in ["e\u{301}te\u{301}.txt", "นี่คือที่", "हिन्दी", "Tie\u{302}\u{301}ng", "it's \"it\""]
    {
        assert_eq!(plain(honest), honest);
    }
    // Nothing of the page is struck out or overgrown.
    assert_eq!(plain("\u{338}a=\u{338}"), "\\u{338}a=\\u{338}");
    assert_eq!(
        plain(&format!("e{}", "\u{301}".repeat(9))),
        format!("e\u{301}\u{301}\u{301}\u{301}{}", "\\u{301}".repeat(5))
    );
}

#[test]
fn long_keys_are_cut_in_the_middle_and_the_page_stays_small() {
    let shown = shown();
    for _ in 0..100 {
        shown.overview.results.add(result(&"\u{1}".repeat(1024)));
    }
    let page = html(&shown, false).unwrap();
    assert!(page.len() < 150_000, "{}", page.len());
    let long = format!("the-start{}the-end.pdf", "x".repeat(1000));
    shown.overview.results.add(result(&long));
    let _work = shown.overview.in_work.begin("uploads", &long, "upload");
    let page = html(&shown, false).unwrap();
    assert!(!page.contains(&long));
    for part in ["uploads/the-startx", "x…x", "xthe-end.pdf</code><small>1,028 characters</small>"]
    {
        assert_eq!(page.matches(part).count(), 2, "{part}: {page}");
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = html(&shown(), false).unwrap();
    for bad in
        ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "<iframe", "<form"]
    {
        assert!(!page.contains(bad), "{bad}");
    }
}

#[test]
fn it_says_what_is_down_since_when_and_what_to_check() {
    let shown = shown();
    assert!(html(&shown, false).unwrap().contains("Scanning. Nothing needs you."));
    shown.health.down(Part::Engine, "connection refused");
    let page = html(&shown, false).unwrap();
    assert!(page.contains("Not scanning: engine is down."));
    assert!(page.contains("connection refused, for 0 s: check SCANNER, CLAMD_ENDPOINT"));
    assert!(page.contains("Uploads wait in their queue."));
    shown.health.down(Part::Broker, "connection refused");
    let page = html(&shown, false).unwrap();
    assert!(page.contains("broker, engine are down. The store has to keep its events"), "{page}");
    // The reason of a broker that cannot be reached says itself what to check.
    shown.health.down(Part::Broker, "no answer: check RABBITMQ_ENDPOINT");
    let page = html(&shown, false).unwrap();
    assert!(page.contains("no answer: check RABBITMQ_ENDPOINT, for 0 s</li>"), "{page}");
    shown.health.up(Part::Broker);
    shown.health.up(Part::Engine);
    shown.health.down(Part::Webhook, "503");
    assert!(html(&shown, false).unwrap().contains("one thing needs a look"));
}

#[test]
fn how_long_there_was_no_result_is_said_while_something_is_in_work() {
    let shown = shown();
    assert!(!html(&shown, false).unwrap().contains("no result for"));
    let _work = shown.overview.in_work.begin("b", "k", "upload");
    let page = html(&shown, false).unwrap();
    assert!(page.contains("<dt>no result for, here</dt><dd>0 s</dd>"), "{page}");
    assert!(page.contains("Nothing needs you"), "{page}");
}

#[test]
fn a_daemon_that_stops_says_so() {
    let shown = shown();
    shown.stopping.cancel();
    let page = html(&shown, false).unwrap();
    assert!(page.contains("<title>Stopping: "), "{page}");
    assert!(
        page.contains("<p>Stopping: nothing new is taken, and what is in work is finished.</p>")
    );
    assert!(!page.contains("Nothing needs you"), "{page}");
}

#[test]
fn parked_messages_have_the_command_to_paste() {
    let shown = shown();
    shown.metrics.dead_letter(QueueKind::Notifications, Stage::Tag, "tag_denied");
    let depth = |queue, dead| QueueDepth { queue, dead, ..nothing_waits() };
    shown.health.set_queues(vec![
        depth(QueueKind::Notifications, Some(0)),
        depth(QueueKind::Reports, Some(0)),
    ]);
    let page = html(&shown, false).unwrap();
    assert!(page.contains("Nothing needs you") && !page.contains("redrive"));
    shown.health.set_queues(vec![
        depth(QueueKind::Notifications, Some(1200)),
        depth(QueueKind::Reports, Some(1)),
    ]);
    let page = html(&shown, false).unwrap();
    for command in ["--dry-run<", "--reason tag_denied<", "--reports --dry-run<"] {
        assert!(page.contains(&format!("bucket-av-scanner redrive {command}")), "{command}");
    }
    shown.health.set_queues(vec![depth(QueueKind::Sweeps, Some(1))]);
    let sweeps = html(&shown, false).unwrap();
    assert!(sweeps.contains("sweep BUCKET<") && !sweeps.contains("redrive"), "{sweeps}");
    assert!(page.contains("1,200 of notifications") && page.contains("one thing needs a look"));
}

#[test]
fn a_download_shows_its_progress() {
    let shown = shown();
    let work = shown.overview.in_work.begin("b", "k", "sweep");
    let received = Received::default();
    received.set(3 << 20);
    work.is_at(Step::Fetching { received, total: 4 << 20 });
    let page = html(&shown, true).unwrap();
    assert!(page.contains("value=\"75\"") && page.contains("3.0 MiB of 4.0 MiB"));
    work.is_at(Step::Fetching { received: Received::default(), total: 0 });
    assert!(html(&shown, true).unwrap().contains("value=\"100\""));
}

#[test]
fn durations_have_two_units() {
    for (seconds, text) in
        [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")]
    {
        assert_eq!(long(Duration::from_secs(seconds)), text);
    }
}
