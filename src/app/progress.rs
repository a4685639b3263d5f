//! What the progress bars of commands share.

use std::sync::{Arc, OnceLock};

use indicatif::ProgressStyle;
use tokio_util::task::AbortOnDropHandle;

use crate::sweep::Pages;

/// Counts what lists name while a command works on it, many times faster than that.
pub(super) struct Counting {
    /// Set when all is counted.
    total: Arc<OnceLock<u64>>,
    _counting: AbortOnDropHandle<()>,
}

impl Counting {
    /// Counts what all these lists name.
    pub(super) fn start(lists: Vec<Pages>) -> Self {
        let total = Arc::new(OnceLock::new());
        let counted = Arc::clone(&total);
        let counting = tokio::spawn(async move {
            let mut objects = 0;
            for mut pages in lists {
                loop {
                    match pages.next().await {
                        Ok(Some(page)) => objects += page.len() as u64,
                        Ok(None) => break,
                        // Whoever works on the list reads it too, and says what is wrong with it.
                        Err(_) => return,
                    }
                }
            }
            counted.get_or_init(|| objects);
        });
        Self { total, _counting: AbortOnDropHandle::new(counting) }
    }

    /// How many there are, once all are counted.
    pub(super) fn total(&self) -> Option<u64> {
        self.total.get().copied()
    }
}

/// The style of this template, or `otherwise` if the template has a mistake.
pub(super) fn style(template: &str, otherwise: ProgressStyle) -> ProgressStyle {
    otherwise.clone().template(template).unwrap_or(otherwise)
}
