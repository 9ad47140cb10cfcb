"""Pieces of work -> futures, on the workers of a Dask cluster. Sole home of dask.

Knows no slides. A worker that dies takes one piece of work with it: its future fails, and the
others go on.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from distributed import Client, Security, WorkerPlugin, get_worker
from distributed import Future as DaskFuture
from distributed.protocol.pickle import dumps, loads
from distributed.scheduler import KilledWorker

from wsi_pipeline.errors import ConfigError, SchedulerError, WorkerLostError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.run.lanes import StepNews, Tell, TellingProgress, Tools

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PREDICTOR = "GPU"
"""Dask resource of the workers that predict: ``dask worker ... --resources GPU=1``."""

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""


def write_keys(folder: Path) -> None:
    """Make a certificate, its key and the configuration by which Dask uses them.

    Parameters
    ----------
    folder : Path
        Made when missing, for its owner alone; ``DASK_CONFIG`` names it then.

    Raises
    ------
    ConfigError
        If the package cryptography is not installed.
    """
    try:
        security = Security.temporary()
    except ImportError as error:
        raise ConfigError(
            "keys need the package cryptography; install it with "
            "pip install 'wsi-pipeline[cluster]'"
        ) from error
    made = security.get_tls_config_for_role("scheduler")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.absolute()
    roles = "".join(
        f"      {role}: {{cert: '{folder}/cert.pem', key: '{folder}/key.pem'}}\n"
        for role in ("scheduler", "worker", "client")
    )
    contents = {
        "cert.pem": made["cert"],
        "key.pem": made["key"],
        "distributed.yaml": (
            f"distributed:\n  comm:\n    require-encryption: true\n    tls:\n"
            f"      ca-file: '{folder}/cert.pem'\n{roles}"
        ),
    }
    for name, content in contents.items():
        with replace_atomically(folder / name) as partial:
            partial.touch(mode=0o600)
            partial.write_text(content, encoding="ascii")


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Connect to a scheduler that is running.

    Parameters
    ----------
    address : str
        Such as ``tcp://head-node:8786``.

    Yields
    ------
    Client
        Connected; the cluster goes on after the block.

    Raises
    ------
    SchedulerError
        If nobody answers.
    """
    if not address.startswith("tls://"):
        logger.warning(
            "the scheduler at %s runs the code of whoever reaches it; give it keys by "
            "'wsi-pipeline cluster keys'",
            address,
        )
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without keys
        raise SchedulerError(
            f"no Dask scheduler answers at {address} ({error}); start one with 'dask scheduler' "
            f"and give the address it prints; one with keys needs DASK_CONFIG here too"
        ) from error
    with client:
        yield client


class DaskWorkers:
    """The workers of a Dask cluster, to whom several lanes send work.

    Parameters
    ----------
    client : Client
        Connected to the cluster.
    tell : callable
        Takes the news of the work, from a thread of the client.
    shared : object
        What :attr:`~wsi_pipeline.run.lanes.Tools.shared` gives. Sent once to every worker, also
        to those that join or restart later.
    """

    def __init__(self, client: Client, tell: Tell, *, shared: object = None) -> None:
        self._client = client
        self._topic = f"wsi-pipeline-{uuid.uuid4().hex}"
        self._running: set[DaskFuture[Any]] = set()
        self._lock = Lock()
        client.subscribe_topic(self._topic, lambda event: tell(StepNews(**event[1]["news"])))
        if shared is not None:
            client.register_plugin(_Shared(self._topic, shared))

    def lane(self, *, priority: int = 0, resource: str | None = None) -> DaskLane:
        """Open a lane.

        Parameters
        ----------
        priority : int
            Work of higher priority goes first.
        resource : str or None
            Where workers offer this Dask resource, they alone do the work, each as many pieces
            at a time as it offers.

        Returns
        -------
        DaskLane
            To submit work to.
        """
        return DaskLane(self, priority, resource)

    def width(self, resource: str | None) -> int:
        """Count the pieces of work that the workers of now do at a time."""
        offered = [worker["resources"].get(resource, 0) for worker in self._workers()]
        threads = [worker["nthreads"] for worker in self._workers()]
        return max(1, int(sum(offered)) or sum(threads))

    def submit(
        self, key: str, work: Callable[[Tools], Result], priority: int, resource: str | None
    ) -> Future[Result]:
        """Do ``work`` on a worker when its turn comes."""
        offered = resource is not None and any(
            w["resources"].get(resource) for w in self._workers()
        )
        future: Future[Result] = Future()
        sent = self._client.submit(
            _do,
            work,
            key,
            self._topic,
            key=f"{key}-{uuid.uuid4().hex}",
            pure=False,
            priority=priority,
            resources={resource: 1} if offered else None,
        )
        with self._lock:
            self._running.add(sent)
        sent.add_done_callback(partial(self._settle, future))
        return future

    def close(self) -> None:
        """Drop what waits; what runs on a worker of a standing cluster ends there."""
        with self._lock:
            running = list(self._running)
        self._client.cancel(running)
        self._client.unsubscribe_topic(self._topic)

    def _workers(self) -> list[dict[str, Any]]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"].values())

    def _settle(self, future: Future[Result], sent: DaskFuture[Result]) -> None:
        with self._lock:
            self._running.discard(sent)
        if sent.status == "finished":
            future.set_result(sent.result())
        elif sent.status == "error":
            future.set_exception(_explained(sent.exception()))
        else:
            future.set_exception(
                SchedulerError("the connection to the Dask scheduler is lost; run again to go on")
            )


@dataclass(frozen=True, slots=True)
class DaskLane:
    """Work of one kind for the workers of a cluster.

    Attributes
    ----------
    workers : DaskWorkers
        Who does it.
    priority, resource
        As :meth:`DaskWorkers.lane` says.
    """

    workers: DaskWorkers
    priority: int
    resource: str | None

    @property
    def width(self) -> int:
        """Pieces of work that are done at a time, as far as workers are there now."""
        return self.workers.width(self.resource)

    def submit(self, key: str, work: Callable[[Tools], Result]) -> Future[Result]:
        """Do ``work`` on a worker when its turn comes."""
        return self.workers.submit(key, work, self.priority, self.resource)


class _Shared(WorkerPlugin):
    """Holds one object on every worker, unpacked when it is first asked for."""

    def __init__(self, name: str, shared: object) -> None:
        self.name = name
        self._packed: bytes = dumps(shared)

    def setup(self, worker: Any) -> None:  # noqa: ANN401 -- a dask Worker, which has no type
        """Make ready, once per worker."""
        self._lock = Lock()
        self._shared: Any = None

    def get(self) -> Any:  # noqa: ANN401 -- any object
        """Return the object."""
        with self._lock:
            if self._shared is None:
                self._shared = loads(self._packed)
            return self._shared


def _do(work: Callable[[Tools], Result], key: str, topic: str) -> Result:
    """Do a piece of work; runs on a worker."""
    worker = get_worker()

    def tell(news: StepNews) -> None:
        worker.log_event(topic, {"news": asdict(news)})  # dask adds the name of the worker

    def shared() -> object:
        plugin = worker.plugins[topic]
        assert isinstance(plugin, _Shared)
        return plugin.get()

    return work(Tools(progress=TellingProgress(key, tell), shared=shared))


def _explained(error: BaseException) -> BaseException:
    if not isinstance(error, KilledWorker):
        return error
    return WorkerLostError(
        f"{error.allowed_failures + 1} worker processes died while they worked on it (out of "
        f"memory, or a crash in a library that reads it); run it alone with --workers 1, and look "
        f"into the logs of the workers"
    )
