//! What a full store gives up first.

/// How many of the leading segments must go so that the rest fits `cap` bytes.
/// `sizes` are the segments' bytes, oldest first. The last one is being written
/// and is never given up, whatever its size.
pub fn segments_to_drop(sizes: &[u64], cap: u64) -> usize {
    let mut total: u64 = sizes.iter().sum();
    let droppable = sizes.len().saturating_sub(1);
    sizes[..droppable]
        .iter()
        .take_while(|&&size| {
            let over = total > cap;
            total -= size;
            over
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::segments_to_drop;

    #[test]
    fn drops_the_oldest_until_the_rest_fits() {
        assert_eq!(segments_to_drop(&[10, 10, 10], 30), 0);
        assert_eq!(segments_to_drop(&[10, 10, 10], 29), 1);
        assert_eq!(segments_to_drop(&[10, 10, 10], 10), 2);
    }

    #[test]
    fn never_drops_the_one_being_written() {
        assert_eq!(segments_to_drop(&[10], 1), 0);
        assert_eq!(segments_to_drop(&[10, 10], 0), 1);
        assert_eq!(segments_to_drop(&[], 0), 0);
    }
}
