"""The results of one slide -> a bucket, and back when they are needed again.

A slide is complete in the bucket when its records are there: they arrive last and go first. What
the results are is not known here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError, StoreExistsError
from wsi_pipeline.run.marks import Stage
from wsi_pipeline.run.records import slide_prefix
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.run.work import store_origin
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store.find import STORE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_pipeline.run.outcome import SlideOutcome
    from wsi_pipeline.run.work import SlideOptions
    from wsi_pipeline.slide.job import SlideJob

SAME_PATCHES = ("recipe", "fingerprint", "content")
"""What decides patches, wherever their slide lies."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the results of slides go.

    Attributes
    ----------
    url : str
        ``s3://bucket/prefix`` of the run.
    options : SlideOptions
        How slides are done, and where their results lie until they are complete.
    """

    url: str
    options: SlideOptions

    def fetch_store(self, job: SlideJob, record: SlideOutcome | None) -> None:
        """Copy the patches of a slide to the local folder, if they are there and of use.

        Parameters
        ----------
        job : SlideJob
            The slide.
        record : SlideOutcome or None
            What is on record of its patches.

        Raises
        ------
        StoreExistsError
            If they are of another configuration, and ``overwrite`` is off.
        """
        mark = None if record is None else record.stages.get(Stage.STORE)
        if mark is None or self.options.redo:
            return
        if mark.made_from.get("recipe") != store_origin(job, self.options)["recipe"]:
            if self.options.overwrite:
                return
            raise StoreExistsError(
                f"{self.url}/{job.slide_id} holds patches that were made with other options; pass "
                f"--overwrite to replace them, or choose another --out"
            )
        folder = self.options.folder(job.slide_id)
        RemoteFolder(self.url).download(f"{job.slide_id}/{STORE_NAME}", folder / STORE_NAME)

    def move(self, outcome: SlideOutcome, earlier: SlideOutcome | None) -> SlideOutcome:
        """Copy the results of a slide to the bucket and remove them here; its record follows.

        Parameters
        ----------
        outcome : SlideOutcome
            What came of the slide.
        earlier : SlideOutcome or None
            What is on record of the patches in the bucket.

        Returns
        -------
        SlideOutcome
            With the time it took.
        """
        remote = RemoteFolder(self.url)
        slide_id = outcome.slide_id
        folder = self.options.folder(slide_id)
        watch = Stopwatch()
        with watch.stage("upload"):
            same = _same_patches(outcome, earlier)
            if not same and Stage.STORE in outcome.stages:
                # the records first, so that no mixture of two runs ever looks complete
                remote.remove(*remote.names(slide_prefix(slide_id)))
                remote.remove(*remote.names(slide_id))
            remote.upload(folder, slide_id, leave_out=[STORE_NAME] if same else [])
        shutil.rmtree(folder)
        return replace(outcome, seconds=outcome.seconds | watch.seconds)


def move_files(url: str, out: Path, slide_id: str, names: Iterable[str]) -> None:
    """Copy files of a slide to a bucket and remove them here; its record follows.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix`` of the run.
    out : Path
        Folder that they lie in.
    slide_id : str
        The slide; its records in the bucket go first, so that no mixture of two runs ever looks
        complete.
    names : iterable of str
        Files, or folders as Zarr makes them, relative to ``out``.
    """
    remote = RemoteFolder(url)
    remote.remove(*remote.names(slide_prefix(slide_id)))
    for name in names:
        local = out / name
        if local.is_dir():
            remote.remove(*remote.names(name))
            remote.upload(local, name)
            shutil.rmtree(local)
        else:
            remote.write(name, local)
            local.unlink()


def fetch_folder(url: str, folder: Path) -> Path:
    """Copy what lies below an address to a local folder.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    folder : Path
        Where a folder of the last name of the address is made.

    Returns
    -------
    Path
        That folder.

    Raises
    ------
    ConfigError
        If nothing lies there.
    OutputError
        If the bucket cannot be reached.
    """
    remote = RemoteFolder(url)
    if not remote.names(""):
        raise ConfigError(f"there is nothing below {url}; check the name")
    copied = folder / remote.url.rsplit("/", 1)[-1]
    remote.download("", copied)
    return copied


def _same_patches(outcome: SlideOutcome, earlier: SlideOutcome | None) -> bool:
    now = outcome.stages.get(Stage.STORE)
    then = None if earlier is None else earlier.stages.get(Stage.STORE)
    return (
        now is not None
        and then is not None
        and all(now.made_from.get(key) == then.made_from.get(key) for key in SAME_PATCHES)
    )
