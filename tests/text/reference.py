"""The word rule written a second time, from its description and independently of `hat`.

Where hat/text/word_rule.py is an automaton that reads characters one by one, this is the rule as
published: UAX #29 rule by rule with its look-ahead, cuts, kinds of piece, joining. It works on a
batch of strings of equal length, [M, n] of class numbers, so that the conformance tests can be
exhaustive. UTF-8 is Python's, code points are compared by number.
"""

from __future__ import annotations

import numpy as np

_VALUES = (
    "Other CR LF Newline Extend ZWJ Regional_Indicator Format Katakana Hebrew_Letter ALetter "
    "Single_Quote Double_Quote MidNumLet MidLetter MidNum Numeric ExtendNumLet WSegSpace "
    "JoinedPictograph Nothing"
).split()
_SPACE, _WHITE, _MARK, _WORD = range(4)
_CODE = {value: code for code, value in enumerate(_VALUES)}


def _is(codes: np.ndarray, *values: str) -> np.ndarray:
    return np.isin(codes, [_CODE[value] for value in values])


class Reference:
    """`classes`: rows of (Word_Break, P, Ll, Lu, White_Space, U+0020, Extended_Pictographic)."""

    def __init__(self, classes):
        self._word_break = np.array([_CODE[c[0]] for c in classes])
        flags = np.array([c[1:] for c in classes], bool)
        self._p, self._ll, self._lu, self._white, self._space, self._pictograph = flags.T

    def segment_breaks(self, strings: np.ndarray, *, uax29: bool = False) -> np.ndarray:
        """bool[M, n]: a UAX #29 word boundary before each character. Unless `uax29`, as the
        segmentation library under the published rule has it: a pictograph that a ZWJ joins is no
        letter any more, and counts as what follows a middle character."""
        count = strings.shape[1]
        wb = self._word_break[strings]
        before = np.concatenate([np.full_like(wb[:, :1], _CODE["Nothing"]), wb[:, :-1]], axis=1)
        joined = (before == _CODE["ZWJ"]) & self._pictograph[strings]
        if not uax29:
            wb = np.where(joined, _CODE["JoinedPictograph"], wb)
        line_end = ("CR", "LF", "Newline")
        ignored = _is(wb, "Extend", "Format", "ZWJ") & ~_is(before, *line_end, "Nothing")

        # The neighbours that WB4 leaves: one and two back, and one ahead.
        back1, back2 = np.full_like(wb, _CODE["Nothing"]), np.full_like(wb, _CODE["Nothing"])
        ahead = np.full_like(wb, _CODE["Nothing"])
        flags_before = np.zeros_like(wb)  # unbroken run of regional indicators
        for i in range(1, count):
            skip = ignored[:, i - 1]
            back1[:, i] = np.where(skip, back1[:, i - 1], wb[:, i - 1])
            back2[:, i] = np.where(skip, back2[:, i - 1], back1[:, i - 1])
            run = np.where(_is(wb[:, i - 1], "Regional_Indicator"), flags_before[:, i - 1] + 1, 0)
            flags_before[:, i] = np.where(skip, flags_before[:, i - 1], run)
        for i in range(count - 2, -1, -1):
            ahead[:, i] = np.where(ignored[:, i + 1], ahead[:, i + 1], wb[:, i + 1])

        letter = ("ALetter", "Hebrew_Letter")

        def follows(*values):
            return _is(ahead, *values, "JoinedPictograph")

        mid_letter = ("MidLetter", "MidNumLet", "Single_Quote")
        mid_number = ("MidNum", "MidNumLet", "Single_Quote")
        join = (
            (_is(back1, *letter) & _is(wb, *letter))  # WB5
            | (_is(back1, *letter) & _is(wb, *mid_letter) & follows(*letter))  # WB6
            | (_is(back2, *letter) & _is(back1, *mid_letter) & _is(wb, *letter))  # WB7
            | (_is(back1, "Hebrew_Letter") & _is(wb, "Single_Quote"))  # WB7a
            | (_is(back1, letter[1]) & _is(wb, "Double_Quote") & follows(letter[1]))  # WB7b
            | (_is(back2, letter[1]) & _is(back1, "Double_Quote") & _is(wb, letter[1]))  # WB7c
            | (_is(back1, "Numeric") & _is(wb, "Numeric"))  # WB8
            | (_is(back1, *letter) & _is(wb, "Numeric"))  # WB9
            | (_is(back1, "Numeric") & _is(wb, *letter))  # WB10
            | (_is(back2, "Numeric") & _is(back1, *mid_number) & _is(wb, "Numeric"))  # WB11
            | (_is(back1, "Numeric") & _is(wb, *mid_number) & follows("Numeric"))  # WB12
            | (_is(back1, "Katakana") & _is(wb, "Katakana"))  # WB13
            | (
                _is(back1, *letter, "Numeric", "Katakana", "ExtendNumLet")
                & _is(wb, "ExtendNumLet")  # WB13a
            )
            | (_is(back1, "ExtendNumLet") & _is(wb, *letter, "Numeric", "Katakana"))  # WB13b
            | (_is(wb, "Regional_Indicator") & (flags_before % 2 == 1))  # WB15, WB16
        )
        join |= ignored  # WB4
        join |= _is(before, "WSegSpace") & _is(wb, "WSegSpace")  # WB3d
        join |= joined  # WB3c
        join &= ~_is(before, *line_end) & ~_is(wb, *line_end)  # WB3a, WB3b
        join |= _is(before, "CR") & _is(wb, "LF")  # WB3
        join[:, :1] = False  # WB1
        return ~join

    def published_starts(self, strings: np.ndarray) -> np.ndarray:
        """bool[M, n]: the words of the published rule applied to each whole string."""
        num_strings, count = strings.shape
        p, ll, lu = self._p[strings], self._ll[strings], self._lu[strings]
        cut = self.segment_breaks(strings)
        cut[:, 1:] |= p[:, :-1] | (ll[:, :-1] & lu[:, 1:])
        # Kinds of piece, known where the piece ends. Runs of spaces are one piece by WB3d.
        kind = np.empty((num_strings, count), np.int8)
        length = np.zeros(num_strings, int)
        blank = np.ones(num_strings, bool)
        for i in range(count):
            length = np.where(cut[:, i], 1, length + 1)
            blank = (blank | cut[:, i]) & self._white[strings[:, i]]
            one_space = (length == 1) & self._space[strings[:, i]]
            one_mark = (length == 1) & p[:, i]
            kind[:, i] = np.select([one_space, blank, one_mark], [_SPACE, _WHITE, _MARK], _WORD)
        for i in range(count - 2, -1, -1):  # every character gets the kind of its whole piece
            kind[:, i] = np.where(cut[:, i + 1], kind[:, i], kind[:, i + 1])
        starts = cut.copy()
        for i in range(1, count):
            last, this = kind[:, i - 1], kind[:, i]
            attaches = ((last == _SPACE) & (this == _WORD)) | ((last != _WHITE) & (this == _MARK))
            starts[:, i] &= ~attaches
        return starts

    def last_starts(self, strings: np.ndarray) -> np.ndarray:
        """bool[M]: whether the last word of the published rule is the last character alone: the
        causal reading of the rule."""
        return self.published_starts(strings)[:, -1]

    def causal_starts(self, string: list[int]) -> list[bool]:
        """All prefixes at once, filled up in front with line feeds, which nothing joins."""
        count = len(string)
        line_feed = int(np.flatnonzero(self._word_break == _CODE["LF"])[0])
        prefixes = np.full((count, count), line_feed)
        for i in range(count):
            prefixes[i, count - 1 - i :] = string[: i + 1]
        return self.last_starts(prefixes).tolist() if count else []


def characters(data: bytes) -> list[tuple[int, int]]:
    """(code point, bytes) of each character; an invalid byte is (U+FFFD, 1)."""
    result, at = [], 0
    while at < len(data):
        for length in (1, 2, 3, 4):
            try:
                result.append((ord(data[at : at + length].decode()), length))
                break
            except UnicodeDecodeError:
                continue
        else:
            length = 1
            result.append((0xFFFD, 1))
        at += length
    return result


def limited(lengths: list[int], rule_starts: list[bool], limit: int) -> list[int]:
    """Byte positions of word starts under a limit: `split_with_limit` of the published code, on
    the words of the rule: cut at most `limit` bytes on, back off to a character boundary, or
    failing that cut the character."""
    boundaries = [0, *np.cumsum(lengths).tolist()]
    words = [at for at, start in zip(boundaries, rule_starts, strict=False) if start]
    starts = []
    for begin, end in zip(words, [*words[1:], boundaries[-1]][: len(words)], strict=True):
        while begin < end:
            starts.append(begin)
            cut = min(begin + limit, end)
            back = [b for b in boundaries if begin < b <= cut]
            begin = back[-1] if back else cut
    return starts
