import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from sdapp.errors import DiskFullError, InterruptedRunError
from sdapp.jobs import Job
from sdapp.models.locate import locate
from sdapp.outputs.writer import ENCODERS, write_results
from sdapp.planning import plan
from sdapp.records import Record, Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

CONFIG = validate(Layer({"prompt": "a cat", "seed": 7, "count": 9}))


def painted(job: Job, index: int, together: int) -> Result:
    record = Record(job.id, "", {}, "cpu", "float32", 1, together, 0.1, "", {})
    return Result(job, index, record, Image.new("RGB", (8, 8)))


def results(*batches: int) -> Iterator[Result]:
    jobs = iter(enumerate(plan(CONFIG, locate("postcards"))))
    for together in batches:
        yield from [painted(job, index, together) for index, job in islice(jobs, together)]


def named(result: Result) -> Result:
    return replace(result, path=Path(f"{result.index}.png"))


def same(result: Result) -> Result:
    return result


def test_several_images_are_encoded_at_a_time_and_published_in_their_order() -> None:
    meeting, done = threading.Barrier(2), list[int]()

    def encode(result: Result) -> Result:
        if ENCODERS > 1:
            meeting.wait(60)  # each pair at the same time
        return result

    def publish(result: Result) -> Result:
        done.append(result.index)
        return result

    assert [result.index for result in write_results(results(4), encode, publish)] == done == [0, 1, 2, 3]


def test_what_cannot_be_encoded_comes_to_light() -> None:
    def encode(result: Result) -> Result:
        raise DiskFullError("no room")

    with pytest.raises(DiskFullError):
        next(write_results(results(2), encode, same))


def test_a_batch_is_published_while_the_next_is_painted() -> None:
    begun = threading.Event()

    def paint() -> Iterator[Result]:
        for result in results(3, 3):
            if result.index == 3:
                begun.set()
            yield result

    def publish(result: Result) -> Result:
        assert begun.wait(60)
        return named(result)

    assert [str(result.path) for result in write_results(paint(), same, publish)] == [
        f"{index}.png" for index in range(6)
    ]


def test_of_two_batches_the_first_is_published_before_a_third_is_painted() -> None:
    done: list[int] = []

    def paint() -> Iterator[Result]:
        for result in results(2, 2, 2):
            assert len(done) >= result.index - 3
            yield result

    def publish(result: Result) -> Result:
        done.append(result.index)
        return result

    assert [result.index for result in write_results(paint(), same, publish)] == done == list(range(6))


def test_an_image_painted_alone_is_published_before_the_next_is_painted() -> None:
    done: list[int] = []

    def paint() -> Iterator[Result]:
        for result in results(1, 1, 1, 2):
            assert len(done) >= min(result.index, 3)
            yield result

    for result in write_results(paint(), same, named):
        done.append(result.index)
    assert done == [0, 1, 2, 3, 4]


def test_a_full_disk_comes_to_light_and_later_images_are_tried() -> None:
    tried: list[int] = []

    def publish(result: Result) -> Result:
        tried.append(result.index)
        if result.index == 1:
            raise DiskFullError("no room")
        return result

    seen = write_results(results(4), same, publish)
    assert next(seen).index == 0
    with pytest.raises(DiskFullError):
        next(seen)
    assert tried[:3] == [0, 1, 2]  # the last may not have been handed over by then


def test_a_full_disk_comes_to_light_though_more_is_being_painted() -> None:
    failed = threading.Event()

    def paint() -> Iterator[Result]:
        for result in results(3):
            yield result
            assert failed.wait(60)

    def publish(result: Result) -> Result:
        failed.set()
        raise DiskFullError("no room")

    with pytest.raises(DiskFullError):
        next(write_results(paint(), same, publish))


def test_what_was_painted_before_an_interruption_is_published_and_given_out() -> None:
    def paint() -> Iterator[Result]:
        yield from results(3)
        raise InterruptedRunError("stopped", 2)

    seen = write_results(paint(), same, named)
    assert [str(next(seen).path) for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(InterruptedRunError):
        next(seen)


def test_what_was_painted_is_published_though_nobody_looks_any_more() -> None:
    all_there, done = threading.Event(), list[int]()

    def paint() -> Iterator[Result]:
        yield from results(4)
        all_there.set()

    def publish(result: Result) -> Result:
        assert all_there.wait(60)
        done.append(result.index)
        return result

    seen = write_results(paint(), same, publish)
    assert next(seen).index == 0
    seen.close()
    assert done == [0, 1, 2, 3]
