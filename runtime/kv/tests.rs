use super::*;

fn keys(chain: &KeyChain, salt: u64, blocks: &[[u32; 2]]) -> Vec<BlockKey> {
    let mut key = chain.root(salt);
    let mut next = |tokens: &[u32; 2]| {
        key = chain.next(key, tokens);
        key
    };
    blocks.iter().map(&mut next).collect()
}

#[test]
fn a_key_covers_its_prefix_and_its_salt() {
    let chain = KeyChain::default();
    let a = keys(&chain, 0, &[[1, 2], [3, 4]]);
    assert_eq!(a, keys(&chain, 0, &[[1, 2], [3, 4]]));
    assert_ne!(a[1], keys(&chain, 0, &[[1, 9], [3, 4]])[1], "another prefix");
    assert_ne!(a[0], keys(&chain, 1, &[[1, 2]])[0], "another salt");
    assert_ne!(a[0], keys(&KeyChain::default(), 0, &[[1, 2]])[0], "another engine");
}

#[test]
fn a_freed_block_is_found_again_until_it_is_taken() {
    let chain = KeyChain::default();
    let key = keys(&chain, 0, &[[1, 2], [3, 4]]);
    let mut pool = BlockPool::new(3).unwrap();
    let [a, b] = [pool.take().unwrap(), pool.take().unwrap()];
    pool.name(a, key[0]);
    pool.name(b, key[1]);
    pool.give(b);
    pool.give(a);
    assert_eq!((pool.free(), pool.find(key[0]), pool.find(key[1])), (3, Some(a), Some(b)));
    assert_eq!(pool.claim(key[0]), Some(a));
    pool.share(a);
    pool.check([a, a].into_iter());
    // The block that never held anything goes first, then the one that was freed first.
    assert_eq!(pool.take(), Some(BlockId(2)));
    assert_eq!(pool.take(), Some(b));
    assert_eq!((pool.find(key[1]), pool.evictions(), pool.take()), (None, 1, None));
}

#[test]
fn the_least_recently_used_is_forgotten_first_and_ends_before_beginnings() {
    let chain = KeyChain::default();
    let key = keys(&chain, 0, &[[1, 1], [2, 2], [3, 3], [4, 4]]);
    let mut pool = BlockPool::new(4).unwrap();
    let ids: Vec<BlockId> = key.iter().map(|_| pool.take().unwrap()).collect();
    ids.iter().zip(&key).for_each(|(id, key)| pool.name(*id, *key));
    // Two sequences of two blocks each; then the first one's prefix is used again.
    [1, 0, 3, 2].iter().for_each(|i| pool.give(ids[*i]));
    pool.claim(key[0]).unwrap();
    pool.give(ids[0]);
    let taken: Vec<BlockId> = (0..4).map(|_| pool.take().unwrap()).collect();
    assert_eq!(taken, [ids[1], ids[3], ids[2], ids[0]]);
}

#[test]
fn a_sequence_grows_into_neighbours_while_they_are_free() {
    let mut pool = BlockPool::new(20).unwrap();
    let ids = |blocks: &[BlockId]| blocks.iter().map(|b| b.0).collect::<Vec<_>>();
    // Two take turns, each has room; then the first meets the second.
    let [mut a, mut b] = [vec![pool.take().unwrap()], vec![pool.take().unwrap()]];
    for _ in 1..9 {
        for blocks in [&mut a, &mut b] {
            blocks.push(pool.take_after(blocks[blocks.len() - 1]).unwrap());
        }
    }
    assert_eq!(
        (ids(&a), ids(&b)),
        ([0, 1, 2, 3, 4, 5, 6, 7, 16].to_vec(), [8, 9, 10, 11, 12, 13, 14, 15, 17].to_vec())
    );
    // After the last block, and after one whose neighbour holds what may be found again, comes the first that is free.
    assert_eq!(pool.take_after(BlockId(17)), Some(BlockId(18)));
    let key = keys(&KeyChain::default(), 0, &[[1, 2]])[0];
    pool.name(BlockId(18), key);
    pool.give(BlockId(18));
    assert_eq!(pool.take_after(BlockId(17)), Some(BlockId(19)));
    pool.give(BlockId(3));
    assert_eq!(pool.take_after(BlockId(19)), Some(BlockId(3)));
    assert_eq!(pool.take_after(BlockId(3)), Some(BlockId(18)), "when nothing else is left");
    pool.check(a.iter().chain(&b).copied().chain([BlockId(18), BlockId(19)]));
}

#[test]
fn equal_contents_have_one_name() {
    let chain = KeyChain::default();
    let key = keys(&chain, 0, &[[1, 2]])[0];
    let mut pool = BlockPool::new(2).unwrap();
    let [a, b] = [pool.take().unwrap(), pool.take().unwrap()];
    pool.name(a, key);
    pool.name(b, key);
    assert_eq!(pool.find(key), Some(a));
    pool.give(b);
    assert_eq!(pool.take(), Some(b), "a block without a name is taken at once");
    pool.check([a, b].into_iter());
}
