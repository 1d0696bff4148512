from collections.abc import Callable

from typer.testing import Result

from sdapp.profiling import PARTS, timed

Run = Callable[..., Result]
FOUR = ("generate", "a cat", "--seed", 7, "--count", 4, "--set", "steps=2", "--set", "batch_size=2")


def test_a_profile_names_every_part_and_adds_up(sdapp: Run) -> None:
    result = sdapp(*FOUR, "--profile")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4
    rows = [line.rpartition(" s ") for line in result.stderr.splitlines() if line.endswith("%")]
    seconds = {name: float(figure) for name, figure in (row[0].rsplit(maxsplit=1) for row in rows)}
    assert list(seconds) == [*PARTS, "the rest", "in all"]
    assert all(figure >= 0 for figure in seconds.values())
    assert abs(sum(list(seconds.values())[:-1]) - seconds["in all"]) < 0.01
    assert seconds["UNet"] > 0
    assert result.stderr.splitlines()[-1].startswith("save in the background ")


def test_a_profile_is_printed_however_the_run_ends(sdapp: Run) -> None:
    result = sdapp("generate", "a cat", "--steps", 0, "--profile")
    assert result.exit_code == 2
    assert "in all" in result.stderr


def test_nothing_is_measured_unless_asked_for(sdapp: Run) -> None:
    assert "in all" not in sdapp(*FOUR).stderr
    with timed("UNet"):
        pass
    assert sdapp(*FOUR, "--profile").stderr.count("in all") == 1
