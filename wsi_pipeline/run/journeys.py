"""Slides on their way through the lanes of a run -> what came of each, on record at every stop.

Knows no stage: what a slide needs is planned elsewhere, from what is on record of it. Here it is
kept from other runs while it is under way, few slides are let in at a time, and whatever goes wrong
with one is its own failure.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from wsi_pipeline.errors import OutputError, SchedulerError
from wsi_pipeline.run.lanes import Lane, Tools, WorkLane
from wsi_pipeline.run.outcome import SlideOutcome, Status

if TYPE_CHECKING:
    from wsi_pipeline.run.records import Records

logger = logging.getLogger(__name__)

Step = Callable[[SlideOutcome, Tools], SlideOutcome]

HELD_SECONDS = 1.0
"""How often slides are asked for that another run is at work on."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A step of a slide and the lane it takes."""

    lane: Lane
    step: Step


@dataclass(frozen=True, slots=True)
class Journey:
    """A slide that is to be done.

    Attributes
    ----------
    slide_id : str
        The slide.
    plan : callable
        Looks at what is on record and gives the record to start from and the legs that are left;
        none if all is finished. Called again once the slide is kept from other runs.
    redact : callable or None
        Takes names that are not to be said out of why a slide failed.
    """

    slide_id: str
    plan: Callable[[], tuple[SlideOutcome, list[Leg]]]
    redact: Callable[[str], str] | None = None


@dataclass(slots=True)
class _Trip:
    """A slide under way, kept from other runs."""

    outcome: SlideOutcome
    legs: deque[Leg]
    redact: Callable[[str], str] | None
    claim: ExitStack = field(default_factory=ExitStack)


class Traffic:
    """Sends slides along their lanes.

    Parameters
    ----------
    records : Records
        Where what came of each is kept.
    lanes : mapping of Lane to WorkLane
        What does the work.
    ahead : int
        Slides that may wait between the lanes, besides one in each place of a lane.
    run : str
        Name of the run, for the records.
    """

    def __init__(
        self, records: Records, lanes: Mapping[Lane, WorkLane], ahead: int, run: str
    ) -> None:
        self._records = records
        self._lanes = lanes
        self._ahead = ahead
        self._run = run
        self._under_way: dict[Future[SlideOutcome], _Trip] = {}

    def outcomes(self, journeys: Sequence[Journey]) -> Iterator[SlideOutcome]:
        """Do the slides and yield what came of each, in order of completion."""
        waiting, held = deque(journeys), deque[Journey]()
        try:
            while waiting or held or self._under_way:
                while waiting and self._has_room():
                    yield from self._begin(waiting.popleft(), held)
                if self._under_way:
                    yield from self._collect(HELD_SECONDS if held else None)
                elif held:
                    self._tell_of(held)
                    time.sleep(HELD_SECONDS)
                if held and not waiting:
                    waiting, held = held, deque()
        finally:
            for trip in self._under_way.values():
                trip.claim.close()

    def _has_room(self) -> bool:
        # a slide in every place where work is done; more would fill the disk with what only waits
        if not self._under_way:
            return True
        places = {id(lane): lane.width for lane in self._lanes.values()}
        return len(self._under_way) < sum(places.values()) + self._ahead

    def _begin(self, journey: Journey, held: deque[Journey]) -> Iterator[SlideOutcome]:
        """Start a slide, unless it is finished or another run is at it."""
        outcome, legs = journey.plan()
        if not legs:
            yield replace(outcome, reused=True)
            return
        claim = ExitStack()
        try:
            claim.enter_context(self._records.claim(journey.slide_id))
            # the run that held it may have done some of it meanwhile
            outcome, legs = journey.plan()
        except OutputError:
            held.append(journey)
            return
        except OSError as error:
            yield _redacted(_failed(outcome, error), journey.redact)
            return
        if legs:
            self._send(_Trip(outcome, deque(legs), journey.redact, claim))
            return
        claim.close()
        yield replace(outcome, reused=True)

    def _send(self, trip: _Trip) -> None:
        leg = trip.legs.popleft()
        work = partial(attempt, leg.step, trip.outcome)
        self._under_way[self._lanes[leg.lane].submit(trip.outcome.slide_id, work)] = trip

    def _collect(self, seconds: float | None) -> Iterator[SlideOutcome]:
        """Wait for the next steps to end, and send their slides on or yield them."""
        done, _ = wait(self._under_way, timeout=seconds, return_when=FIRST_COMPLETED)
        for future in done:
            trip = self._under_way.pop(future)
            with ExitStack() as ended:
                ended.push(trip.claim)
                trip.outcome = _redacted(_result(future, trip.outcome), trip.redact)
                if trip.outcome.status is Status.FAILED:
                    trip.legs.clear()
                trip.outcome = self._keep(trip.outcome, unfinished=bool(trip.legs))
                if trip.legs and trip.outcome.status is not Status.FAILED:
                    trip.claim = ended.pop_all()
                    self._send(trip)
                    continue
            yield trip.outcome

    def _keep(self, outcome: SlideOutcome, *, unfinished: bool) -> SlideOutcome:
        """Put on record what came of a slide so far."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = replace(outcome, ended=ended, run=self._run)
        shown = replace(outcome, status=Status.UNFINISHED) if unfinished else outcome
        try:
            self._records.write(shown)
            of_patches = outcome.of_patches()
            if of_patches is not None:
                self._records.write(replace(of_patches, status=shown.status))
        except OSError as error:
            logger.error("the record of %s cannot be written: %s", outcome.slide_id, error)  # noqa: TRY400
            return _failed(outcome, error)
        return outcome

    def _tell_of(self, held: deque[Journey]) -> None:
        logger.info("waiting for %d slides that another run is at work on", len(held))


def attempt(step: Step, outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    """Take one step, and record why it failed if it did: the place where runs survive."""
    try:
        return step(outcome, tools)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it must cost one slide only
        return _failed(outcome, error)


def _result(future: Future[SlideOutcome], before: SlideOutcome) -> SlideOutcome:
    """Return what a step gave; a worker that died of it is the failure of one slide."""
    try:
        return future.result()
    except SchedulerError:
        raise  # no slide can be done any more
    except Exception as error:  # noqa: BLE001 -- as in attempt
        return _failed(before, error)


def _redacted(outcome: SlideOutcome, redact: Callable[[str], str] | None) -> SlideOutcome:
    if redact is None or outcome.error is None:
        return outcome
    return replace(outcome, error=redact(outcome.error))


def _failed(outcome: SlideOutcome, error: Exception) -> SlideOutcome:
    logger.warning("%s failed: %s", outcome.path, error)
    logger.info("where %s failed", outcome.slide_id, exc_info=error)
    return outcome.failed(error)
