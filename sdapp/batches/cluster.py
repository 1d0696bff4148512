"""Paint on a Ray cluster: Ray starts and places the workers; names and ledger stay with this process."""

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from sdapp import __version__
from sdapp.batches.executors import Executor, Loader, LocalExecutor, Pack, load_painter
from sdapp.batches.items import Item
from sdapp.errors import ConfigError, UnavailableError
from sdapp.jobs import LoadKey, Work
from sdapp.models.model import Model
from sdapp.outputs.encode import encode
from sdapp.outputs.writer import save_result
from sdapp.records import OnStep, Result
from sdapp.settings.hardware import ExecutorChoice

TOGETHER = 16  # images in a pack with `batch_size: auto`, of which the worker finds the fastest batches
HELD = 2  # packs that a worker holds: the one that it paints, and the next
TRIES = 3  # so many workers may die while they paint an image alone; then it has failed
STARTS = 3  # so many workers in a row may die while they start, and none is up; then the run ends
LOOK_SECONDS = 0.5  # between two looks at signals, and at what the bar shows
REACH_SECONDS = 10.0  # until a cluster that does not answer is given up
GROW_SECONDS = 5.0  # between two looks for new nodes


class Worker:
    """The actor on a node: it keeps a model loaded, paints packs and encodes their images."""

    def __init__(self, loader: Loader) -> None:
        self._executor = LocalExecutor(loader=loader)

    def version(self) -> str:
        """The version of sdapp on this node."""
        return __version__

    def paint(self, pack: Pack) -> list[Result]:
        """Paint a pack. If it has an output, results have a file, or a path if it is shared, but no image."""
        return [_encoded(result, pack) for result in self._executor.paint(pack.work)]


def _encoded(result: Result, pack: Pack) -> Result:
    if pack.output is None:
        return result
    result = pack.items[result.index].label(result)
    try:
        result = encode(result, pack.output)
    except ConfigError as exc:  # the format has no room for the record
        return replace(result, image=None, error=str(exc))
    result = save_result(result, pack.output) if pack.output.shared else result
    return replace(result, image=None, latents=None)


def _with_image(result: Result) -> Result:
    """Return an encoded result with its image, whose pixels are read when they are needed."""
    source = BytesIO(result.file) if result.file else result.path
    return replace(result, image=Image.open(source)) if source else result


@dataclass(eq=False)
class Hand:
    """A worker as this process sees it."""

    actor: Any
    is_up: bool = False
    held: int = 0  # packs
    images: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def pace(self) -> float:
        """Images a minute since it began."""
        return 60 * self.images / max(time.monotonic() - self.begun, 1e-3)


class RayExecutor:
    """Paints on the workers of a Ray cluster, each with the model loaded.

    Models, input images and LoRA files must have the same paths on all nodes. `look` is called twice a second
    while this process waits; what it raises ends the painting.
    """

    def __init__(
        self,
        choice: ExecutorChoice,
        device: str = "auto",
        loader: Loader = load_painter,
        look: Callable[["RayExecutor"], None] = lambda _: None,
    ) -> None:
        """Connect to the cluster. Raises UnavailableError if there is none, or if no worker fits into it."""
        self.ray, self.dashboard = _connect(choice.address)
        self._choice, self._device, self._loader, self.look = choice, device, loader, look
        self.hands: list[Hand] = []
        self.starting: dict[Any, Hand] = {}  # by the reference to its version
        self.failed = 0  # images
        self._grown, self._dead_starts = -GROW_SECONDS, 0
        if self._room() == 0:
            raise UnavailableError(self._no_room())

    def together(self, work: Work) -> int:
        fair = math.ceil(len(work.jobs) / (HELD * max(1, len(self.hands) or self._room())))
        return max(1, min(TOGETHER if work.batch_size == "auto" else work.batch_size, fair))

    def paint(self, work: Work, on_step: OnStep | None = None) -> Iterator[Result]:
        size, jobs = self.together(work), work.jobs
        parts = (range(first, min(first + size, len(jobs))) for first in range(0, len(jobs), size))
        packs = (
            Pack(
                replace(work, jobs=[jobs[index] for index in part]),
                tuple(Item(jobs[index], 0, index, {}) for index in part),
            )
            for part in parts
        )
        early, following = dict[int, Result](), 0
        for item, result in self.paint_packs(packs, on_step):
            early[item.index] = replace(result, index=item.index)
            while following in early:
                yield early.pop(following)
                following += 1

    def paint_packs(
        self, packs: Iterable[Pack], on_step: OnStep | None = None
    ) -> Iterator[tuple[Item, Result]]:
        """Keep each worker busy with a pack and the next one; paint again elsewhere what a dead one held.

        `on_step` is called when a pack is finished.
        """
        return _Run(self, iter(packs), on_step).results()

    def in_words(self) -> str:
        """What the workers do, for a progress bar."""
        paces = sorted(hand.pace for hand in self.hands if hand.images)
        if not paces:
            return f"{len(self.hands)} workers are starting" if self.hands else "no node has room"
        failed = f", {self.failed} failed" if self.failed else ""
        ends = " to ".join(dict.fromkeys(f"{pace:.3g}" for pace in (paces[0], paces[-1])))
        return f"{len(self.hands)} workers, each {ends} images a minute{failed}"

    def grow(self) -> None:
        """Start workers for all the room that the cluster has now."""
        if time.monotonic() - self._grown < GROW_SECONDS:
            return
        self._grown = time.monotonic()
        actor = self.ray.remote(Worker).options(num_cpus=self._choice.cpus, num_gpus=self._gpus)
        for _ in range(self._room() - len(self.hands)):
            hand = Hand(actor.remote(self._loader))
            self.hands.append(hand)
            self.starting[hand.actor.version.remote()] = hand

    def welcome(self, ref: Any) -> None:
        """Let a worker that has started take packs. Raises UnavailableError if it has another sdapp."""
        hand = self.starting.pop(ref)
        try:
            found = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as exc:  # sdapp cannot be imported there
            raise UnavailableError(f"a worker cannot start: {exc.cause}") from exc
        except self.ray.exceptions.RayError as exc:
            self.drop(hand)
            self._dead_starts += 1
            if self._dead_starts >= STARTS and not any(each.is_up for each in self.hands):
                why = str(exc).strip().splitlines()[-1]
                raise UnavailableError(
                    f"{STARTS} workers died while they started: {why}; sdapp {__version__} must be installed "
                    "on all nodes"
                ) from exc
            return
        if found != __version__:
            raise UnavailableError(f"a worker has sdapp {found}, this is {__version__}; install one version")
        hand.is_up, hand.begun, self._dead_starts = True, time.monotonic(), 0

    def drop(self, hand: Hand) -> None:
        """Forget a worker, and end it if it is not dead; `grow` starts another, at once if it was up."""
        if hand in self.hands:
            self.hands.remove(hand)
            self.ray.kill(hand.actor)
            self._grown = -GROW_SECONDS if hand.is_up else self._grown

    @property
    def _gpus(self) -> float:
        """The GPUs of a worker: as asked; else one, if the cluster has any and the device is not the CPU."""
        if self._choice.gpus is not None:
            return self._choice.gpus
        has_gpus = any(node["Resources"].get("GPU") for node in self._nodes())
        return 1.0 if has_gpus and self._device != "cpu" else 0.0

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """How many workers to have: as many as fit on the nodes, or fewer if fewer are asked for."""
        gpus, room = self._gpus, 0
        for node in self._nodes():
            has = node["Resources"]
            fits = int(has.get("CPU", 0) / self._choice.cpus)
            room += min(fits, int(has.get("GPU", 0) / gpus)) if gpus else fits
        return min(room, self._choice.workers or room)

    def _no_room(self) -> str:
        nodes = [node["Resources"] for node in self._nodes()]
        have = "; ".join(f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs" for has in nodes)
        return (
            f"executor: a worker needs {self._choice.cpus:g} CPUs and {self._gpus:g} GPUs, which no node has "
            f"(the nodes have {have}); set executor.cpus and executor.gpus"
        )


@dataclass(frozen=True)
class _Held:
    """A pack that a worker holds.

    One that a worker lost is of one image; `deaths` says how many workers died while they painted it alone.
    """

    pack: Pack
    hand: Hand
    deaths: int | None = None


@dataclass
class _Run:
    """The packs of one call of `paint_packs`. Another run may use the same workers in between."""

    cluster: RayExecutor
    source: Iterator[Pack]
    on_step: OnStep | None
    held: dict[Any, _Held] = field(default_factory=dict)  # by the reference to the results
    lost: deque[tuple[Pack, int]] = field(default_factory=deque)  # of one image each, with its deaths

    def results(self) -> Iterator[tuple[Item, Result]]:
        cluster, ray = self.cluster, self.cluster.ray
        try:
            while not self._hand_out() or self.held or self.lost:
                cluster.look(cluster)
                cluster.grow()
                if not (waiting := [*self.held, *cluster.starting]):  # no node is left: one may join
                    time.sleep(LOOK_SECONDS)
                    continue
                done, _ = ray.wait(waiting, timeout=LOOK_SECONDS)
                for ref in done:
                    if ref in cluster.starting:
                        cluster.welcome(ref)
                    else:
                        yield from self._take(ref)
        finally:
            for each in self.held.values():  # the run was ended: nobody wants what these still paint
                cluster.drop(each.hand)

    def _hand_out(self) -> bool:
        """Give packs to workers that hold few; return whether no pack is left to give."""
        while hand := self._free_hand():
            if self.lost:
                if hand.held:  # what was lost is painted alone: it may cost its worker again
                    return False
                pack, deaths = self.lost.popleft()
                hand.held, given = HELD, _Held(pack, hand, deaths)
            else:
                new = next(self.source, None)
                if new is None:
                    return True
                hand.held, given = hand.held + 1, _Held(new, hand)
            self.held[hand.actor.paint.remote(self._for_elsewhere(given.pack))] = given
        return False

    def _for_elsewhere(self, pack: Pack) -> Pack:
        """The pack as a worker needs it, which has another working folder and does a part of the run."""
        calls = pack.work.unet_calls // len(self.cluster.hands)
        work = replace(pack.work, unet_calls=calls, preview=None)
        output = pack.output and pack.output.model_copy(update={"dir": str(Path(pack.output.dir).resolve())})
        return replace(pack, work=work, output=output)

    def _free_hand(self) -> Hand | None:
        """The worker that holds least; None if all hold enough, unless this run has given them nothing.

        While others start, it is enough to hold one pack: the next one may be theirs.
        """
        up = [hand for hand in self.cluster.hands if hand.is_up]
        hand = min(up, key=lambda each: each.held, default=None)
        enough = 1 if self.cluster.starting else HELD
        return hand if hand and (hand.held < enough or not self.held) else None

    def _take(self, ref: Any) -> Iterator[tuple[Item, Result]]:
        """Yield what a worker has finished, or notice that it has died. Raises what painting raised."""
        held, ray = self.held.pop(ref), self.cluster.ray
        try:
            results = ray.get(ref)
        except ray.exceptions.RayTaskError as exc:
            raise exc.cause from exc
        except ray.exceptions.RayError as exc:
            yield from self._give_back(held, exc)
            return
        held.hand.held -= 1 if held.deaths is None else HELD
        held.hand.images += len(results)
        self.cluster.failed += sum(result.error is not None for result in results)
        if self.on_step:
            steps = held.pack.work.jobs[0].steps
            self.on_step(0, len(results), steps, steps)
        yield from zip(held.pack.items, map(_with_image, results), strict=True)

    def _give_back(self, held: _Held, reason: Exception) -> Iterator[tuple[Item, Result]]:
        """Queue again, one by one, what a dead worker held; give up images that cost too many workers."""
        self.cluster.drop(held.hand)
        deaths = 0 if held.deaths is None else held.deaths + 1
        for item, job in zip(held.pack.items, held.pack.work.jobs, strict=True):
            alone = replace(held.pack, work=replace(held.pack.work, jobs=[job]), items=(item,))
            if deaths < TRIES:
                self.lost.append((alone, deaths))
            else:
                self.cluster.failed += 1
                why = (
                    f"{TRIES} workers died while they painted it alone: {' '.join(str(reason).split())[:300]}"
                )
                yield item, Result(job, 0, None, None, why)


def _connect(address: str) -> tuple[Any, str]:
    """Connect to a cluster, unless this process is connected; return Ray and the URL of the dashboard."""
    try:
        import ray
    except ImportError as exc:
        raise UnavailableError("executor: Ray is not installed; pip install 'sdapp[ray]'") from exc
    context: Any = None
    if not ray.is_initialized():
        try:
            _check_reachable(address)
            context = ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as exc:
            way = "start one with `ray start --head`, or give its address, such as ray://host:10001"
            raise UnavailableError(f"executor.address: no Ray cluster at {address!r}: {exc}; {way}") from exc
    return ray, getattr(context, "dashboard_url", None) or ""


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at an address, for which Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


def choose_executor(choice: ExecutorChoice, models: Mapping[LoadKey, Model]) -> Executor:
    """Return the executor that settings ask for; `models` are located in this process.

    Raises UnavailableError if there is no such cluster, or if it cannot be used.
    """
    if choice.kind == "ray":
        return RayExecutor(choice, next(iter(models)).device)
    return LocalExecutor(models)
