import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdapp.settings.ranges import interval, numbers


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("20", [20]),
        ("5,10, 20", [5, 10, 20]),
        ("1-5", [1, 2, 3, 4, 5]),
        ("5-50:5", [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]),
        ("1-10[4]", [1, 4, 7, 10]),
        ("3-7.5[4]", [3, 4.5, 6, 7.5]),
        ("0.1-0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("5, 10-20:5, 50", [5, 10, 15, 20, 50]),
        ("1-10:4", [1, 5, 9]),  # never past the end
        ("5 - 7", [5, 6, 7]),
    ],
)
def test_ranges_as_people_type_them(text: str, meant: list[float]) -> None:
    found = numbers(text)
    assert found == meant
    assert [type(number) for number in found] == [type(number) for number in meant]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no number and no range; write 20, 5-50:5"),
        ("x", "'x' is no number"),
        ("5,,6", "'' is no number"),
        ("-3", "'-3' is no number"),
        ("1e3", "'1e3' is no number"),
        ("10-5", "counts downwards"),
        ("5-5", "counts downwards"),
        ("1-5:0", "more than 10,000 numbers"),
        ("1-10[1]", "a count from 2 to 10,000"),
        ("1-10[99999999999]", "a count from 2 to 10,000"),
        ("1-99999999999", "more than 10,000 numbers"),
        (",".join(["1-9999"] * 3), "29,997 numbers; at most 10,000"),
    ],
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers(text)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 1000))
def test_a_range_has_its_first_number_and_equal_steps(first: int, length: int, step: int) -> None:
    step = max(step, length // 5000)
    assert numbers(f"{first}-{first + length}:{step}") == list(range(first, first + length + 1, step))


@pytest.mark.parametrize(
    ("value", "meant"),
    [("0..0.5", [0, 0.5]), ("0.1 .. 1", [0.1, 1]), ([0, 1], [0, 1]), (["0", "1"], None), ("0-0.5", None), ("0.5..0", None),
     ([0.5], None), ([0, float("nan")], None), (None, None), ({"0": 1}, None)],
)  # fmt: skip
def test_an_interval_is_two_fractions(value: object, meant: list[float] | None) -> None:
    if meant is None:
        with pytest.raises(ValueError, match=r"two fractions of the run from 0 to 1"):
            interval(value)
    else:
        assert interval(value) == meant
        assert {type(end) for end in interval(value)} == {float}
