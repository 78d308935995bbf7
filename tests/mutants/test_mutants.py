"""The mutants still fit the sources; running them needs a Hopper GPU (`mutants.py run`)."""

from __future__ import annotations

import pytest

from mutants import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_a_mutant_changes_its_source_in_one_place(mutant: mutants.Mutant) -> None:
    assert (mutants.ROOT / mutant.path).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 12
