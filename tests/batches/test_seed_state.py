import os
from pathlib import Path

import pytest

from sdapp.batches.seed_state import STATE_FILE, SeedState, begin_seeds


def test_a_run_that_comes_second_takes_the_seeds_of_the_first_and_makes_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, link, names = SeedState(1, "derived"), SeedState(2, "derived"), os.link, list[str]()

    def link_second(source: Path, target: Path) -> None:
        names.append(target.name)
        if len(names) == 1:  # between the look for the file and the claim of its name
            assert begin_seeds(tmp_path, None, None, first) == first
        link(source, target)

    monkeypatch.setattr(os, "link", link_second)
    assert begin_seeds(tmp_path, None, None, second) == first
    assert set(names) == {STATE_FILE}
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
