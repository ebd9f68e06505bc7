"""The compiled loops of merging: counts of pairs kept up to date, and merges applied by rank.

A text is a linked list of symbols. A junction between two neighbours is open where they may merge;
only open junctions are counted. Occurrences of a pair are a list of the places where it has been
seen; a place that has changed since is passed over when the list is used, for a pair that is gone
from a place never comes back there: its symbols only give way to newer ones. The pair to merge next
comes from a heap whose entries may be too high and are corrected when they come up: counts of a pair
rise only while its newest symbol is made, and fall afterwards.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from hat.text.split_loop import compiled


@compiled
def _slot(keys, key):
    """Where a key lies in an open-addressing table of 2^k places, or the free one for it."""
    mask = np.uint64(len(keys) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = (mixed ^ (mixed >> np.uint64(29))) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@compiled
def _add(left, right, place, keys, pair_at, pairs, count, newest, seen_place, seen_before, used):
    """Counts one more open junction (left, right), whose left symbol is at `place`."""
    key = np.int64(left) << 32 | np.int64(right)
    at = _slot(keys, key)
    if keys[at] == -1:
        keys[at] = key
        pair_at[at] = used[0]
        pairs[used[0], 0], pairs[used[0], 1] = left, right
        newest[used[0]] = -1
        used[0] += 1
    pair = pair_at[at]
    count[pair] += 1
    seen_place[used[1]], seen_before[used[1]] = place, newest[pair]
    newest[pair] = used[1]
    used[1] += 1


@compiled
def _remove(left, right, keys, pair_at, count):
    count[pair_at[_slot(keys, np.int64(left) << 32 | np.int64(right))]] -= 1


@compiled
def _factor(left, right, noise, seed):
    """exp(noise * g), g standard normal: a function of the pair and the seed alone."""
    if noise == 0.0:
        return 1.0
    state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
    state ^= np.uint64(left) << np.uint64(32) | np.uint64(right)
    uniform = np.zeros(2)
    for i in range(2):  # splitmix64
        state += np.uint64(0x9E3779B97F4A7C15)
        z = state
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        uniform[i] = (np.float64(z >> np.uint64(11)) + 0.5) / 9007199254740992.0
    return math.exp(
        noise * math.sqrt(-2 * math.log(uniform[0])) * math.cos(2 * math.pi * uniform[1])
    )


@compiled
def learn(symbols, opened, base, most, length, least, most_parts, noise, seed):
    """Merges the likeliest pair again and again.

    symbols: int32 [n], changed in place; what a merge takes away becomes -1. opened: bool [n], the
    junction before the symbol. base: the number of the first new symbol. Ends after `most` merges,
    or once `length` symbols are left, or where no pair of at most most_parts parts has a count of
    `least`. noise, seed: see `_factor`; counts are multiplied by it to choose.
    Returns pairs int32 [m, 2], counts int64 [m] and lengths int64 [m + 1], before and after each.
    """
    n = len(symbols)
    size = 16
    while size < 6 * n:
        size *= 2
    keys, pair_at = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    pairs, count = np.zeros((3 * n + 1, 2), np.int32), np.zeros(3 * n + 1, np.int64)
    newest = np.zeros(3 * n + 1, np.int32)
    seen_place, seen_before = np.zeros(3 * n + 1, np.int32), np.zeros(3 * n + 1, np.int32)
    used = np.zeros(2, np.int64)  # pairs, and places seen
    after, before = np.arange(1, n + 1), np.arange(-1, n - 1)
    most = min(most, n)  # each takes one symbol away at least
    parts = np.ones(most, np.int32)  # of the new symbols
    made, counts = np.zeros((most, 2), np.int32), np.zeros(most, np.int64)
    lengths = np.full(most + 1, n, np.int64)
    for i in range(1, n):
        if opened[i]:
            _add(symbols[i - 1], symbols[i], i - 1,
                 keys, pair_at, pairs, count, newest, seen_place, seen_before, used)  # fmt: skip
    heap = [(0.0, np.int64(0), np.int64(0), np.int64(0), np.int64(0))]
    heap.pop()
    done, first = 0, 0  # merges, and pairs that the heap has had
    while done < most and lengths[done] > length:
        for pair in range(first, used[0]):
            left, right = pairs[pair, 0], pairs[pair, 1]
            total = 1 if left < base else parts[left - base]
            total += 1 if right < base else parts[right - base]
            if total <= most_parts and count[pair] >= least:
                score = count[pair] * _factor(left, right, noise, seed)
                entry = (-score, np.int64(left), np.int64(right), np.int64(pair), count[pair])
                heapq.heappush(heap, entry)
        first = used[0]
        found = -1
        while len(heap) > 0 and found < 0:
            score, a, b, pair, then = heapq.heappop(heap)
            if count[pair] == then:
                found = pair
            elif count[pair] >= least:
                score = score / then * count[pair]
                heapq.heappush(heap, (score, a, b, pair, count[pair]))
        if found < 0:
            break
        a, b, new = pairs[found, 0], pairs[found, 1], np.int32(base + done)
        made[done, 0], made[done, 1], counts[done] = a, b, count[found]
        parts[done] = (1 if a < base else parts[a - base]) + (1 if b < base else parts[b - base])
        places = np.empty(count[found], np.int32)
        number, link = 0, newest[found]
        while link >= 0:
            place = seen_place[link]
            link = seen_before[link]
            right = after[place]
            if symbols[place] == a and right < n and symbols[right] == b and opened[right]:
                places[number] = place
                number += 1
        places = np.sort(places[:number])  # "aaa" is merged from the left
        gone = 0
        for place in places:
            right = after[place]
            if symbols[place] != a or right >= n or symbols[right] != b:
                continue  # the place before has just taken it
            left, beyond = before[place], after[right]
            if opened[place]:
                _remove(symbols[left], a, keys, pair_at, count)
            if beyond < n and opened[beyond]:
                _remove(b, symbols[beyond], keys, pair_at, count)
            _remove(a, b, keys, pair_at, count)
            symbols[place], symbols[right] = new, -1
            after[place] = beyond
            if beyond < n:
                before[beyond] = place
            if opened[place]:
                _add(symbols[left], new, left,
                     keys, pair_at, pairs, count, newest, seen_place, seen_before, used)  # fmt: skip
            if beyond < n and opened[beyond]:
                _add(new, symbols[beyond], place,
                     keys, pair_at, pairs, count, newest, seen_place, seen_before, used)  # fmt: skip
            gone += 1
        done += 1
        lengths[done] = lengths[done - 1] - gone
    return made[:done], counts[:done], lengths[: done + 1]


@compiled
def apply(symbols, opened, base, made):
    """Applies merges int32 [m, 2] by rank, each from the left, to symbols int32 [n] in place: what
    a merge takes away becomes -1."""
    n, size = len(symbols), 16
    while size < 2 * len(made):
        size *= 2
    keys, rank_of = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    for rank in range(len(made)):
        key = np.int64(made[rank, 0]) << 32 | np.int64(made[rank, 1])
        at = _slot(keys, key)
        keys[at], rank_of[at] = key, rank
    after, before = np.arange(1, n + 1), np.arange(-1, n - 1)
    heap = [np.int64(0)]
    heap.pop()
    for i in range(1, n):
        if opened[i]:
            key = np.int64(symbols[i - 1]) << 32 | np.int64(symbols[i])
            at = _slot(keys, key)
            if keys[at] == key:
                heapq.heappush(heap, rank_of[at] * n + i - 1)
    while len(heap) > 0:
        entry = heapq.heappop(heap)
        rank, place = entry // n, entry % n
        right = after[place]
        if symbols[place] != made[rank, 0] or right >= n or symbols[right] != made[rank, 1]:
            continue
        left, beyond = before[place], after[right]
        symbols[place], symbols[right] = base + rank, -1
        after[place] = beyond
        if beyond < n:
            before[beyond] = place
        if opened[place]:
            key = np.int64(symbols[left]) << 32 | np.int64(symbols[place])
            at = _slot(keys, key)
            if keys[at] == key:
                heapq.heappush(heap, rank_of[at] * n + left)
        if beyond < n and opened[beyond]:
            key = np.int64(symbols[place]) << 32 | np.int64(symbols[beyond])
            at = _slot(keys, key)
            if keys[at] == key:
                heapq.heappush(heap, rank_of[at] * n + place)
