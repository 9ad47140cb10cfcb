"""Where the time went, and the verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.run.outcome import SlideOutcome, Status
from wsi_pipeline.run.timing import Means, Timing, merge_timings, time_run

ONE_CORE_BUSY = Means(workers=1, cores=8)


def outcome(seconds: dict[str, float], device: str = "") -> SlideOutcome:
    return SlideOutcome(
        slide_id="a", path="a.svs", status=Status.DONE, seconds=seconds, device=device
    )


def test_a_gpu_without_patches_is_told_what_it_waits_for_and_what_to_do() -> None:
    slides = [outcome({"decode": 50, "unmix": 20, "prediction": 35, "device wait": 5}, "cuda")] * 2

    timing = time_run(slides, 100, ONE_CORE_BUSY)

    # 60 of 100 s at work: 70 s of prediction, of which it waited 10
    assert timing.verdict == (
        "the GPU waited 40% of the time, most of it for decode: raise --workers, which is 1; the "
        "machine has 8 cores"
    )
    assert timing.stages == {"decode": 100, "prediction": 70, "unmix": 40, "device wait": 10}
    assert next(iter(timing.stages)) == "decode"


def test_a_busy_gpu_is_the_limit() -> None:
    timing = time_run([outcome({"decode": 80, "prediction": 95}, "cuda")], 100, ONE_CORE_BUSY)

    assert timing.verdict.startswith("the GPU worked 95% of the time")
    assert "more --workers would not" in timing.verdict


def test_gpus_of_a_cluster_share_the_time() -> None:
    means = Means(workers=4, cores=4, predictors=4, cluster=True)

    timing = time_run([outcome({"decode": 80, "prediction": 100}, "cuda")], 100, means)

    assert timing.verdict == (
        "the 4 GPUs waited 75% of the time, most of it for decode: more workers in the cluster "
        "would help"
    )


@pytest.mark.parametrize(
    ("seconds", "means", "said"),
    [
        ({"decode": 6, "mask": 4}, ONE_CORE_BUSY, "decode took 60% of the work: raise --workers"),
        ({"mask": 9, "decode": 1}, ONE_CORE_BUSY, "raise --slides-at-once, which is 1"),
        ({"exports": 9}, Means(workers=8, cores=8), "keeps one of 8 cores busy"),
        ({"decode": 9}, Means(workers=8, cores=8), "all 8 cores worked on it; more machines"),
        ({"mask": 9}, Means(workers=1, cores=2, slides_at_once=2), "all 2 cores worked on it"),
        ({"upload": 9, "decode": 1}, ONE_CORE_BUSY, "upload took 90% of the work: the way to"),
        ({"prediction": 9, "decode": 1}, ONE_CORE_BUSY, "the model took 90% of the work"),
        ({}, ONE_CORE_BUSY, "nothing was computed"),
    ],
)
def test_without_a_gpu_the_longest_stage_is_named(
    seconds: dict[str, float], means: Means, said: str
) -> None:
    assert said in time_run([outcome(seconds)], 10, means).verdict


def test_parts_of_a_run_are_judged_as_a_whole() -> None:
    slides = (
        [outcome({"decode": 10, "prediction": 30}, "cuda")],
        [outcome({"decode": 90, "prediction": 5}, "cuda")],
    )
    parts = [time_run(of_part, 50, ONE_CORE_BUSY) for of_part in slides]

    whole = merge_timings(parts, [*slides[0], *slides[1]])

    assert whole.wall == 100
    assert "waited 65% of the time, most of it for decode" in whole.verdict
    assert Timing.from_dict(whole.to_dict()) == whole


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e3)), max_size=5))
def test_no_second_is_lost(seconds: list[dict[str, float]]) -> None:
    timing = time_run([outcome(of_slide) for of_slide in seconds], 1, ONE_CORE_BUSY)

    assert sum(timing.stages.values()) == pytest.approx(sum(sum(s.values()) for s in seconds))
    assert list(timing.stages.values()) == sorted(timing.stages.values(), reverse=True)
