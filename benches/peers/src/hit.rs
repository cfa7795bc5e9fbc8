//! The table of warm hits: what authenticating a request adds to it.

use indicatif::ProgressBar;

use crate::peer::{BATCH, Hit};

/// What a peer adds to a request, in nanoseconds.
pub struct Added {
    pub name: &'static str,
    pub note: &'static str,
    /// Of the request that is not authenticated.
    pub floor: f64,
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

/// Times all of them in turns, beginning with another in each round: what the machine does beside hits all of them alike. What a peer adds
/// is taken from a batch and the batch of its floor that ran right before.
pub fn measure(mut hits: Vec<Hit>, rounds: usize) -> Vec<Added> {
    let progress = ProgressBar::new(rounds as u64).with_message("warm hits");
    progress.set_style(crate::style());
    let mut floors = vec![Vec::with_capacity(rounds); hits.len()];
    let mut added = floors.clone();
    for round in 0..=rounds {
        for turn in 0..hits.len() {
            let at = (round + turn) % hits.len();
            let each = |batch: &mut crate::peer::Batch| batch().as_nanos() as f64 / BATCH as f64;
            let floor = each(&mut hits[at].floor);
            let authenticated = each(&mut hits[at].authenticated);
            // The first is to warm up.
            if round > 0 {
                floors[at].push(floor);
                added[at].push(authenticated - floor);
            }
        }
        progress.set_position(round as u64);
    }
    progress.finish_and_clear();
    hits.iter()
        .zip(floors.iter_mut().zip(&mut added))
        .map(|(hit, (floors, added))| {
            let [_, floor, _] = quartiles(floors);
            let [lower, median, upper] = quartiles(added);
            Added { name: hit.name, note: hit.note, floor, lower, median, upper }
        })
        .collect()
}

fn quartiles(figures: &mut [f64]) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|part| figures[figures.len() * part / 4])
}
