"""Peak memory a device: ffdist's stages against baselines with as many devices and the same batch in all."""

from __future__ import annotations

from typing import Any

from ffdist.baselines import family
from ffdist.bench.best import with_plan
from ffdist.bench.harness.meter import MemoryUse
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.settings import BenchSettings
from ffdist.bench.suites.throughput import SERIAL
from ffdist.bench.weighed import baseline_memory, pipeline_memory, worst
from ffdist.errors import ConfigError

MIB = 2**20


def memory(settings: BenchSettings, progress: Progress) -> BenchResult:
    """The most that any device of a side holds, and what for. No rounds: bytes do not depend on the machine's mood."""
    settings = with_plan(settings, progress)
    ours = pipeline_memory(settings, settings.num_stages)
    used: dict[str, list[MemoryUse]] = {"ours": ours}
    refused: dict[str, str] = {}
    for name in settings.compare.against:
        for variant in () if name == SERIAL else family(name):
            progress(f"weighing {variant}")
            try:
                used[variant] = baseline_memory(settings, variant)
            except ConfigError as error:
                refused[variant] = str(error)
        if name == SERIAL:
            used[SERIAL] = pipeline_memory(settings, 1)
    notes = [
        "per device: tensors alive at once, counted by allocation; resident: the process above its idle state",
        *(f"{variant} does not fit: {why.splitlines()[0]}" for variant, why in refused.items()),
    ]
    if floor := one_f_one_b_note(used):
        notes.append(floor)
    summary = [summarise(settings, used, name) for name in settings.compare.against if members(used, name)]
    facts = summary[0] if len(summary) == 1 else summary
    return BenchResult("memory", facts, [weighed(settings, used)], notes, bars(settings, used))


def members(used: dict[str, list[MemoryUse]], name: str) -> list[str]:
    """The measured variants that the baseline `name` stands for."""
    return [variant for variant in ((SERIAL,) if name == SERIAL else family(name)) if variant in used]


def summarise(settings: BenchSettings, used: dict[str, list[MemoryUse]], name: str) -> dict[str, Any]:
    """Summarise ours against the baseline's variant that takes the least."""
    best = min(members(used, name), key=lambda variant: worst(used[variant]).peak)
    ours, theirs = worst(used["ours"]), worst(used[best])
    return {
        **settings.facts,
        "against": name,
        "variant": best,
        "ours": ours.peak,
        "theirs": theirs.peak,
        "ratio": ours.peak / theirs.peak,
        "unit": "bytes a device",
        "ours_split": ours._asdict(),
        "theirs_split": theirs._asdict(),
    }


def weighed(settings: BenchSettings, used: dict[str, list[MemoryUse]]) -> ResultTable:
    """A line for each device of each side."""
    columns = {"side": "side", "device": "device", **{name: name for name in MemoryUse._fields}, "ours / it": "ratio"}
    title = f"{settings.subject}, batch {settings.batch_size}: MiB on each device"
    made = ResultTable("memory", title, columns, dict.fromkeys(MemoryUse._fields, "MiB") | {"ratio": ""})
    ours = worst(used["ours"]).peak
    for name, devices in used.items():
        for index, use in enumerate(devices):
            mebibytes = {field: value / MIB for field, value in use._asdict().items()}
            made.add(side=name, device=index, **mebibytes, ratio=ours / worst(devices).peak)
    return made


def one_f_one_b_note(used: dict[str, list[MemoryUse]]) -> str | None:
    """The memory that 1F1B needs in principle: rank r holds at most (ranks - r) microbatches at once. Torch's own holds
    a receive buffer for every microbatch beside them. From GPipe's measured activations, which are those of all
    microbatches."""
    known = next(((v, int(v[6:])) for v in used if v.startswith("gpipe-")), None)
    if known is None:
        return None
    variant, microbatches = known
    floors = [
        use.weights
        + use.gradients
        + use.optimiser
        + (use.activations + use.queue) * min(len(used[variant]) - rank, microbatches) // microbatches
        for rank, use in enumerate(used[variant])
    ]
    return (
        f"1F1B's floor, computed from {variant}: {max(floors) / MIB:,.1f} MiB on its fullest device; "
        f"ours / floor {worst(used['ours']).peak / max(floors):.2f}"
    )


def bars(settings: BenchSettings, used: dict[str, list[MemoryUse]]) -> Plot:
    peaks = {name: worst(devices).peak / MIB for name, devices in used.items()}
    title = f"{settings.subject}, {settings.compare.devices} devices"
    series = {name: [("", peak, peak, peak)] for name, peak in peaks.items()}
    return Plot("bars", title, "", "MiB of tensors on the fullest device", series)
