"""Device, precision and processes of a training or an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from wsi_models.errors import TrainingError


def in_first_process(fabric: Fabric, work: Callable[[], None]) -> None:
    """Do what must be done once while the other processes of a training wait."""
    if fabric.is_global_zero:
        work()
    fabric.barrier()


def launch(device: str = "auto", precision: str = "32-true") -> Fabric:
    """Set up device, precision and, under ``torchrun``, the processes.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``. Under ``torchrun`` each process takes its own.
    precision : str
        As in :class:`~wsi_models.train.TrainConfig`.

    Returns
    -------
    Fabric
        Launched.

    Raises
    ------
    TrainingError
        If there is no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise TrainingError(f"there is no device {device!r} here; choose cpu, or auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
    fabric = Fabric(
        accelerator=kind,
        devices=[int(index)] if index and local == 1 else local,
        num_nodes=nodes,
        strategy="ddp" if local * nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type] # checked by TrainConfig
    )
    fabric.launch()
    return fabric
