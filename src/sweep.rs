//! Walks a bucket: the standing of each object, what to announce, where to go on.
//!
//! A sweep is a chain of messages in a queue of its own, one at a time: each is the [`State`] before a
//! page. To handle it means to read the page, to announce what it calls for into the backlog, and to
//! publish the state before the next page. The journal says which page was read last, so that after a
//! crash one chain goes on, and which sweep of a bucket goes on at all.
//!
//! - `selection`: which objects are announced; `state`: where a sweep stands; `page`: reads one page;
//! - `fact`: what the journal says of sweeps; `ledger`: what follows from it, pure; `sweeps`: what this
//!   replica knows of them.

mod fact;
mod ledger;
mod page;
mod selection;
mod state;
mod sweeps;

pub(crate) use self::fact::{End, Fact};
pub(crate) use self::ledger::{Advice, Ledger, Sweep};
pub(crate) use self::page::read;
pub(crate) use self::selection::{Pass, Selection};
pub(crate) use self::state::{Counts, Order, State, Why};
pub(crate) use self::sweeps::Sweeps;
