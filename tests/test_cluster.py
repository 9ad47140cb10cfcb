"""Work on processes: results, news, shared objects, priorities, and workers that die."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import Client, LocalCluster, Security

from wsi_pipeline.errors import SchedulerError, WorkerLostError
from wsi_pipeline.run.cluster import DaskWorkers, connected, write_keys

if TYPE_CHECKING:
    from wsi_pipeline.run.lanes import StepNews, Tools

pytestmark = pytest.mark.slow


@contextmanager
def processes(count: int) -> Iterator[Client]:
    """Workers of one thread each, of which two may die of a piece of work."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with processes(2) as client:
        yield client


def process_of(tools: Tools) -> tuple[int, object]:
    tools.progress.start("patches", 3)
    tools.progress.advance(3)
    return os.getpid(), tools.shared()


def die(tools: Tools) -> None:
    os._exit(1)


def fail(tools: Tools) -> None:
    raise ValueError("bug")


def note(file: Path, name: str, tools: Tools) -> None:
    with file.open("a", encoding="utf-8") as log:
        log.write(name)
    time.sleep(0.05)


def test_work_is_done_elsewhere_with_the_shared_object_and_told_of(client: Client) -> None:
    told: list[StepNews] = []
    with closing(DaskWorkers(client, told.append, shared={"model": 1})) as workers:
        pid, shared = workers.lane().submit("slide", process_of).result(timeout=60)
        for _ in range(100):  # news take their own way
            if told and told[-1].done == 3:
                break
            time.sleep(0.05)

    assert pid != os.getpid()
    assert shared == {"model": 1}
    assert (told[-1].key, told[-1].what, told[-1].done) == ("slide", "patches", 3)


def test_a_worker_that_dies_costs_one_piece_of_work(client: Client) -> None:
    with closing(DaskWorkers(client, lambda news: None, shared=1)) as workers:
        lane = workers.lane()
        dead = lane.submit("bad", die)

        with pytest.raises(WorkerLostError, match=r"2 worker processes died.*--workers 1"):
            dead.result(timeout=120)
        others = [lane.submit(str(n), process_of) for n in range(6)]
        # the shared object has reached the workers that took the place of the dead
        assert [other.result(timeout=120)[1] for other in others] == [1] * 6


def test_a_bug_keeps_its_own_error(client: Client) -> None:
    with (
        closing(DaskWorkers(client, lambda news: None)) as workers,
        pytest.raises(ValueError, match="bug"),
    ):
        workers.lane().submit("a", fail).result(timeout=60)


def test_work_of_higher_priority_overtakes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        processes(1) as client,
        closing(DaskWorkers(client, lambda news: None)) as workers,
    ):
        prepare, finish = workers.lane(), workers.lane(priority=1)
        futures = [prepare.submit("p", partial(note, log, "p")) for _ in range(4)]
        futures.append(finish.submit("f", partial(note, log, "F")))
        for future in futures:
            future.result(timeout=60)

    assert log.read_text().index("F") < 3


def test_the_width_counts_workers_or_what_they_offer(client: Client) -> None:
    with closing(DaskWorkers(client, lambda news: None)) as workers:
        assert workers.lane().width == 2
        assert workers.lane(resource="GPU").width == 2  # none offers one, so any worker predicts


def test_only_who_has_the_keys_reaches_a_scheduler(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys")
    (settings,) = dask.config.collect_yaml([str(tmp_path / "keys")])
    assert all(file.stat().st_mode & 0o77 == 0 for file in (tmp_path / "keys").iterdir())
    of_others = copy.deepcopy(dask.config.config)
    with (
        dask.config.set(dask.config.merge(of_others, settings)),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            protocol="tls://",
            security=Security(),
            dashboard_address=":0",
        ) as cluster,
    ):
        address = cluster.scheduler_address
        with connected(address) as client:
            assert client.submit(int, 7).result() == 7
        with (
            dask.config.set(of_others),
            pytest.raises(SchedulerError, match="DASK_CONFIG"),
            connected(address),
        ):
            pass
