from __future__ import annotations

import numpy as np

from hat.text import unicode_classes


def test_checked_in_data_is_what_the_generator_writes(unicode_data, tmp_path):
    checked_in = unicode_classes.load()
    assert checked_in.classes == unicode_data.classes
    np.testing.assert_array_equal(checked_in.run_lengths, unicode_data.run_lengths)
    np.testing.assert_array_equal(checked_in.run_classes, unicode_data.run_classes)

    unicode_classes.save(unicode_data, tmp_path / "again.npz")
    again = unicode_classes.load(tmp_path / "again.npz")
    assert again.classes == checked_in.classes
    np.testing.assert_array_equal(again.run_classes, checked_in.run_classes)


def test_runs_cover_the_code_space():
    runs = unicode_classes.load()
    assert runs.run_lengths.sum() == unicode_classes.NUM_CODE_POINTS
    assert (np.diff(runs.run_classes.astype(int)) != 0).all()
    assert len(runs.classes) == 33


def test_properties_of_known_characters():
    classes = unicode_classes.load().classes
    class_of = unicode_classes.class_of_code_points(unicode_classes.load())

    def properties(character):
        return classes[class_of[ord(character)]]

    assert properties("a").word_break == "ALetter" and properties("a").lower
    assert properties(" ").space and properties(" ").white_space
    assert properties("\u00a0").white_space and not properties("\u00a0").space
    assert not properties("\x1c").white_space  # str.isspace says otherwise
    assert properties("_").punctuation and not properties("+").punctuation
    assert properties("\u202f").word_break == "ExtendNumLet" and properties("\u202f").white_space
    assert properties("\u05f3").word_break == "ALetter" and properties("\u05f3").punctuation
    assert properties("\u066b").word_break == "Numeric" and properties("\u066b").punctuation
    assert properties("\u30a0").word_break == "Katakana" and properties("\u30a0").punctuation
