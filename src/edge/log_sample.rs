//! Samples log lines: `log.requests`.

/// Whether one of many events gets its line, where a share of them does.
pub fn is_sampled(share: f64) -> bool {
    share >= 1.0 || (share > 0.0 && rand::random::<f64>() < share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_lines_is_written() {
        let count = |share| (0..10_000).filter(|_| is_sampled(share)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        let half = count(0.5);
        assert!((4_000..6_000).contains(&half), "{half}");
    }
}
