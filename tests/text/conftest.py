from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

from hat.text import generate_tables
from tests.text.reference import Reference

settings.register_profile("no-deadline", deadline=None)  # machines are slow and shared
settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def unicode_data():
    """The class data, looked up again code point by code point (about 4 s)."""
    return generate_tables.generate()


@pytest.fixture(scope="session")
def reference():
    """The second writing of the word rule, over the 33 checked-in classes."""
    from hat.text import unicode_classes

    return Reference(unicode_classes.load().classes)


@pytest.fixture(scope="session")
def class_of():
    """uint8[0x110000]"""
    from hat.text import unicode_classes

    runs = unicode_classes.load()
    return np.repeat(runs.run_classes, runs.run_lengths)
