"""Seconds per slide and stage -> where the time of a run went, and what would make it shorter.

Judges from what the stages measured themselves; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import SlideOutcome

PREDICTION = "prediction"
"""Stage in which the device of the model is at work or waits for patches."""

WAIT = "device wait"
"""The part of :data:`PREDICTION` in which the device had no patches."""

ONE_THREAD = frozenset({"mask", "grid", "labels", "seal", "exports"})
"""Stages of a slide that one core does, however many there are."""

MUCH_WAITING = 0.2
"""Share of the time from which on a waiting GPU is worth words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a run had to work with.

    Attributes
    ----------
    workers : int
        Threads per slide.
    cores : int
        Cores of the machine that started the run.
    slides_at_once : int
        Slides that were prepared at a time.
    predictors : int
        Devices, or groups of devices, that predicted at a time.
    cluster : bool
        Whether other machines worked too.
    """

    workers: int
    cores: int
    slides_at_once: int = 1
    predictors: int = 1
    cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time of a run went.

    Attributes
    ----------
    wall : float
        Seconds from the first slide to the last; of merged runs, their sum.
    stages : dict of str to float
        Seconds by stage over all slides, the longest first. They overlap, so their sum may be
        more than ``wall``.
    verdict : str
        What took longest and what to do about it, in a sentence.
    means : Means
        What the run had to work with.
    """

    wall: float
    stages: dict[str, float]
    verdict: str
    means: Means

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a timing of what :meth:`to_dict` gave."""
        return cls(**{**values, "means": Means(**values["means"])})


def time_run(outcomes: Sequence[SlideOutcome], wall: float, means: Means) -> Timing:
    """Add up where the time of a run went and judge it.

    Parameters
    ----------
    outcomes : sequence of SlideOutcome
        Its slides, with seconds by stage.
    wall : float
        How long it took, s.
    means : Means
        What it had to work with.

    Returns
    -------
    Timing
        Sums and verdict.
    """
    stages = _sums(outcome.seconds for outcome in outcomes)
    on_gpu = PREDICTION in stages and any(o.device.startswith("cuda") for o in outcomes)
    verdict = _judge_gpu(stages, wall, means) if on_gpu else _judge_work(stages, means)
    return Timing(wall=wall, stages=stages, verdict=verdict, means=means)


def merge_timings(timings: Sequence[Timing], outcomes: Sequence[SlideOutcome]) -> Timing:
    """Judge runs that were parts of one as a whole.

    Parameters
    ----------
    timings : sequence of Timing
        Of the parts, at least one.
    outcomes : sequence of SlideOutcome
        The slides of all parts.

    Returns
    -------
    Timing
        The sums, judged by the means of the first part.
    """
    return time_run(outcomes, sum(timing.wall for timing in timings), timings[0].means)


def _sums(seconds: Iterable[dict[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for of_slide in seconds:
        total.update(of_slide)
    return dict(total.most_common())


def _judge_gpu(stages: dict[str, float], wall: float, means: Means) -> str:
    available = wall * means.predictors
    busy = stages[PREDICTION] - stages.get(WAIT, 0.0)
    waited = max(0.0, 1 - busy / available)
    name = "the GPU" if means.predictors == 1 else f"the {means.predictors} GPUs"
    causes = [stage for stage in stages if stage not in (PREDICTION, WAIT)]
    if waited < MUCH_WAITING or not causes:
        return (
            f"{name} worked {1 - waited:.0%} of the time: the model sets the pace; another GPU "
            f"would help, more --workers would not"
        )
    remedy = _remedy(causes[0], means)
    return f"{name} waited {waited:.0%} of the time, most of it for {causes[0]}: {remedy}"


def _judge_work(stages: dict[str, float], means: Means) -> str:
    work = {stage: seconds for stage, seconds in stages.items() if stage != WAIT}
    total = sum(work.values())
    if not total:
        return "nothing was computed: the results of earlier runs were used, or no slide was done"
    stage = next(iter(work))
    share = work[stage] / total
    if stage == PREDICTION:
        return f"the model took {share:.0%} of the work, without a GPU: a GPU would help most"
    return f"{stage} took {share:.0%} of the work: {_remedy(stage, means)}"


def _remedy(stage: str, means: Means) -> str:
    """Say what would make a stage shorter, on what the run had to work with."""
    if stage == "upload":
        return "the way to the store is slow; start the run nearer to it"
    busy = means.workers * means.slides_at_once
    if stage in ONE_THREAD and means.slides_at_once < means.cores:
        return (
            f"it keeps one of {means.cores} cores busy; raise --slides-at-once, which is "
            f"{means.slides_at_once}"
        )
    if busy < means.cores:
        return f"raise --workers, which is {means.workers}; the machine has {means.cores} cores"
    if means.cluster:
        return "more workers in the cluster would help"
    return (
        f"all {means.cores} cores worked on it; more machines would help (--scheduler or "
        f"--shard-count)"
    )
