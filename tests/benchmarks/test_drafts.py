"""`hat bench drafts`: what a draft is, and the smallest run."""

from __future__ import annotations

import argparse

import pytest

from hat.benchmarks import drafts
from hat.errors import UserError


def test_a_draft_is_what_followed_the_latest_longest_match():
    assert drafts.draft_from(b"abcdX abcdY abcd", 2) == b"Y "
    assert drafts.draft_from(b"1abcdX abcdY 1abcd", 3) == b"X a"  # the longer match
    assert drafts.draft_from(b"abcabc", 2) == b""


def test_passes_and_the_bytes_that_they_give():
    period = b"0123456789abcdefghij"  # every draft right, and the byte after it
    given, passes, alone = drafts.count_passes(period * 20, 8)
    assert given == 9 * passes and alone <= len(period)
    assert drafts.count_passes(bytes(range(256)), 8)[:2] == (0, 0)  # nothing is a match


def test_the_smallest_run():
    result = drafts.run(argparse.Namespace(
        text=[], size="tiny", drafts=[4], bytes=2_000, repeats=1))  # fmt: skip
    row = result["drafts"][4]
    assert row["cost_in_steps"] > 0 and 1 <= row["standard library"]["bytes_per_pass"] <= 5


def test_a_text_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="cannot read"):
            drafts.run(argparse.Namespace(
                text=[path], size="tiny", drafts=[4], bytes=2_000, repeats=1))  # fmt: skip


def test_a_text_without_room_for_a_draft(tmp_path):
    (tmp_path / "short").write_bytes(b"a" * 20)
    with pytest.raises(UserError, match="short: 20 bytes are too few for drafts of 4"):
        drafts.run(argparse.Namespace(
            text=[tmp_path / "short"], size="tiny", drafts=[4], bytes=2_000, repeats=1))  # fmt: skip
