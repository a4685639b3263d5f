//! The status page in headless Chromium, in three states: rules of accessibility by axe, in light and
//! dark, and on a phone. `SCREENSHOTS=folder` keeps pictures of what was looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peers::scripted::Server;
use serde_json::Value;
use tempfile::TempDir;

use super::status::{daemon_with_page, page, says};
use super::*;

const WIDE: (u32, u32) = (1280, 1500);
const PHONE: (u32, u32) = (500, 1500);

/// A way to look at a page.
struct Look {
    name: &'static str,
    dark: bool,
    size: (u32, u32),
}

const LOOKS: [Look; 3] = [
    Look { name: "light", dark: false, size: WIDE },
    Look { name: "dark", dark: true, size: WIDE },
    // Headless Chromium makes no narrower window.
    Look { name: "phone", dark: true, size: PHONE },
];

/// The rules, as a script. Its wheel is installed by testing/setup.sh.
fn axe() -> String {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".stack/tools");
    let folders = fs::read_dir(&tools).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut axe = folders.filter(|path| path.to_string_lossy().contains("axe-playwright-python"));
    let script = axe.next().unwrap().join("axe_playwright_python/axe.min.js");
    fs::read_to_string(script).unwrap()
}

fn chromium(look: &Look, file: &Path, arguments: &[&str]) -> String {
    let profile = TempDir::new().unwrap();
    let output = Command::new("/usr/bin/timeout")
        .args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--hide-scrollbars", "--virtual-time-budget=30000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={},{}", look.size.0, look.size.1))
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!look.dark)))
        .args(arguments)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "chromium: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Looks at an answer of the status page in each way.
fn look_at(state: &str, answer: &str) {
    let html = answer.split_once("\r\n\r\n").unwrap().1;
    let folder = TempDir::new().unwrap();
    let (plain, checked) = (folder.path().join("page.html"), folder.path().join("checked.html"));
    fs::write(&plain, html).unwrap();
    // The answer's policy forbids scripts; here its text is looked at by one.
    let script = format!(
        "<script>{}</script><script>axe.run().then(found => {{ const p = \
         document.createElement('pre'); p.id = 'found'; p.textContent = JSON.stringify({{ \
         violations: found.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')), \
         passes: found.passes.length, paper: getComputedStyle(document.body).backgroundColor, \
         overflow: document.documentElement.scrollWidth - innerWidth }}); \
         document.body.append(p); }})</script></body>",
        axe()
    );
    fs::write(&checked, html.replace("</body>", &script)).unwrap();
    for look in &LOOKS {
        let dom = chromium(look, &checked, &["--dump-dom"]);
        let found = dom.split_once("<pre id=\"found\">").unwrap().1.split_once("</pre>").unwrap().0;
        let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let found: Value = serde_json::from_str(&found).unwrap();
        let what = format!("{state}, {}: {found}", look.name);
        assert_eq!(found["violations"].as_array().map(Vec::len), Some(0), "{what}");
        assert!(found["passes"].as_u64() > Some(20), "{what}");
        assert!(found["overflow"].as_i64() <= Some(0), "{what}");
        let paper = if look.dark { "rgb(13, 17, 23)" } else { "rgb(255, 255, 255)" };
        assert_eq!(found["paper"], paper, "{what}");
        if let Ok(pictures) = std::env::var("SCREENSHOTS") {
            let picture = format!("{pictures}/status-{state}-{}.png", look.name);
            chromium(look, &plain, &[&format!("--screenshot={picture}")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_accessible_when_calm_when_the_engine_is_down_and_in_a_surge() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let engine = Server::start(move |request| {
        if is_down.load(Ordering::Relaxed) {
            return Reply::new(503, "clamd does not answer");
        }
        lax_v1(request)
    });
    let (daemon, address) = daemon_with_page(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("SURGE_LIMIT", "2"),
    ])
    .await;
    let s3 = daemon.s3();
    for (key, body) in [
        ("invoices/2026/November.pdf", vec![b'a'; 48_000]),
        ("photos/<img src=x onerror=alert(1)>.jpg", vec![b'b'; 300_000]),
        ("attachments/mail-7731.zip", eicar()),
        ("backups/database.tar.gz", vec![b'c'; 5_000_000]),
    ] {
        s3.put(key, body).await.unwrap();
    }
    for object in ["November", "onerror", "mail-7731", "database"] {
        says(address, object).await;
    }
    look_at("calm", &says(address, "Nothing needs you").await);

    for number in 0..6 {
        let body = [vec![b' '; number], eicar()].concat();
        s3.put(&format!("inbox/report-{number}.docm"), body).await.unwrap();
    }
    says(address, "signatures held").await;
    look_at("surge", &says(address, "Messages are parked").await);

    down.store(true, Ordering::Relaxed);
    for number in 0..3 {
        s3.put(&format!("uploads/waits-{number}.bin"), "fine").await.unwrap();
    }
    look_at("engine-down", &says(address, "Not scanning: engine is down.").await);
    assert!(page(address).await.contains("check SCANNER"));
}
