//! Measures warm hits: the time that authentication adds to a request.

use indicatif::ProgressBar;

use crate::peer::{BATCH, Hit};

/// Time in nanoseconds that a peer adds to a request.
pub struct Added {
    pub name: &'static str,
    pub note: &'static str,
    /// Time of the request without authentication.
    pub floor: f64,
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

/// Measures the peers in rounds, each round beginning with another peer, so that other load on the machine affects all
/// of them alike. The time that a peer adds is the difference between a batch and the batch of its floor directly
/// before it.
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
            // The first round is a warm-up.
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
