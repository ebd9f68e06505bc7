"""Every file in configs/ loads, and its dump equals tests/golden/NAME.txt, so that no change of
a default passes unseen. HAT_UPDATE_GOLDEN=1 writes them anew, after a change that is meant.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hat.config import dump, load

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_equals_its_golden_dump(name):
    text = dump(load(ROOT / "configs" / f"{name}.py"))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("HAT_UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert golden.exists(), f"no {golden.relative_to(ROOT)}; HAT_UPDATE_GOLDEN=1 writes it"
    assert golden.read_text(encoding="utf-8") == text


def test_every_golden_dump_has_its_config():
    assert {path.stem for path in GOLDEN.glob("*.txt")} <= set(CONFIGS)
