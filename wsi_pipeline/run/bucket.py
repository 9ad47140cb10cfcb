"""The results of one slide -> a bucket, and back when they are needed again.

A slide is complete in the bucket when its record, ``slide.json``, is there: it arrives last and
goes first. What the results are is not known here.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import StoreExistsError
from wsi_pipeline.preprocess.slide_store import identify_store
from wsi_pipeline.run.outcome import SlideOutcome
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store.find import STORE_NAME

if TYPE_CHECKING:
    from wsi_pipeline.run.one_slide import SlideOptions
    from wsi_pipeline.slide.inputs import SlideJob

RECORD_NAME = "slide.json"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the results of a slide go.

    Attributes
    ----------
    url : str
        ``s3://bucket/prefix`` of the run.
    job : SlideJob
        The slide.
    options : SlideOptions
        How it is done, and where its results lie until they are complete.
    """

    url: str
    job: SlideJob
    options: SlideOptions

    def fetch(self, model_fingerprint: str | None, *, patches: bool) -> SlideOutcome | None:
        """Look for what an earlier run left.

        Parameters
        ----------
        model_fingerprint : str or None
            The model that predicts in this run.
        patches : bool
            Whether this run keeps patches.

        Returns
        -------
        SlideOutcome or None
            The record, if all that this run would make is there. If the patches alone are, they
            are copied to the local folder, where the pipeline finds them.

        Raises
        ------
        StoreExistsError
            If there are patches of another configuration or slide, and ``overwrite`` is off.
        """
        remote = RemoteFolder(self.url)
        record = self._record(remote)
        if record is None:
            return None
        identity = identify_store(self.job, self.options.config)
        if record["made_from"] != identity:
            if self.options.overwrite:
                return None
            raise StoreExistsError(
                f"{self.url}/{self.job.slide_id} holds patches that were made with other options "
                f"or from another slide; pass --overwrite to replace them, or choose another --out"
            )
        outcome = SlideOutcome.from_dict(record["outcome"])
        has_patches = "patches" in outcome.files
        if model_fingerprint in (None, record["model"]) and (has_patches or not patches):
            # what a model said of the slide is no part of a run without one
            return outcome if model_fingerprint else replace(outcome, class_shares={}, device="")
        if not (has_patches and patches):
            return None
        folder = self.options.folder(self.job.slide_id)
        remote.download(f"{self.job.slide_id}/{STORE_NAME}", folder / STORE_NAME)
        return None

    def move(self, outcome: SlideOutcome, model_fingerprint: str | None) -> SlideOutcome:
        """Copy the results of a slide to the bucket, then its record, and remove them here.

        Parameters
        ----------
        outcome : SlideOutcome
            What came of the slide.
        model_fingerprint : str or None
            The model that predicted.

        Returns
        -------
        SlideOutcome
            With the time it took.
        """
        remote = RemoteFolder(self.url)
        slide_id = self.job.slide_id
        folder = self.options.folder(slide_id)
        watch = Stopwatch()
        with watch.stage("upload"):
            identity = identify_store(self.job, self.options.config)
            record = self._record(remote)
            same_patches = (
                record is not None
                and record["made_from"] == identity
                and "patches" in record["outcome"]["files"]
            )
            if not same_patches:
                # the record first, so that no mixture of two runs ever looks complete
                remote.remove(f"{slide_id}/{RECORD_NAME}")
                remote.remove(*remote.names(slide_id))
            remote.upload(folder, slide_id, leave_out=[STORE_NAME] if same_patches else [])
        done = replace(outcome, seconds=outcome.seconds | watch.seconds)
        record = {"made_from": identity, "model": model_fingerprint, "outcome": asdict(done)}
        remote.write(f"{slide_id}/{RECORD_NAME}", (json.dumps(record, indent=2) + "\n").encode())
        shutil.rmtree(folder)
        return done

    def _record(self, remote: RemoteFolder) -> dict[str, Any] | None:
        try:
            content = remote.read(f"{self.job.slide_id}/{RECORD_NAME}")
        except FileNotFoundError:
            return None
        record: dict[str, Any] = json.loads(content)
        return record
