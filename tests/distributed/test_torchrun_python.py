"""A script that trains in Python, started by torchrun: its ranks are the stages of one run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import forked
import pytest
from jobs import fingerprint

pytestmark = pytest.mark.distributed

SCRIPT = """
import json, os, sys, threading
from pathlib import Path
import torch
from ffdist import SFF, Pipeline, models

out = Path(sys.argv[1])
told = {"batch_size": 256, "threads": 1, "progress": False, "augment": ["crop"]}
kept = Pipeline("cnnb", "sff", model_args=["widths=4,6,8"])
first = kept.fit("digits", epochs=1, out=out / "kept", **told)
if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ["RANK"] == "1" and len(sys.argv) > 2:
    os._exit(3)
torch.manual_seed(3)
layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
second = Pipeline(layers, SFF()).fit("digits", epochs=1, **told)
third = Pipeline.resume(out / "kept", epochs=2, progress=False)
found = {
    "results": [first.test, second.test, third.result.test],
    "epochs": len(third.result.records),
    "threads": [t.name for t in threading.enumerate() if t.name in ("ffdist stop", "ffdist alive", "ffdist others")],
    "weights": [float(p.detach().double().sum()) for p in [*layers.parameters(), *third.classifier.parameters()]],
}
(out / f"{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(found))
"""


def run(out: Path, ranks: int, *more: str, script: str = SCRIPT, options: tuple[str, ...] = ()) -> str:
    """What each rank has found, which must be the same; alone without torchrun where `ranks` is 0."""
    out.mkdir()
    (out / "script.py").write_text(script)
    start = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        *options,
    ]
    command = [sys.executable, *(start if ranks else []), str(out / "script.py"), str(out), *more]
    done = forked.run(command, timeout=240, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(out)})
    assert done.returncode == 0, done.stderr
    found = [(out / f"{rank}.json").read_text() for rank in (range(ranks) if ranks else ["alone"])]
    assert len(found) == (ranks or 1)
    assert len(set(found)) == 1
    assert not [*out.glob("ffdist-*")], "a folder that nobody keeps is gone"
    return found[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    run(out, 0)
    return out


def test_every_rank_has_what_one_process_has_and_goes_on_where_it_was_when_it_is_started_again(
    alone: Path, tmp_path: Path
) -> None:
    found = run(tmp_path / "out", 2, "fail once", options=("--max-restarts=1",))
    assert found == (alone / "alone.json").read_text()
    assert fingerprint(tmp_path / "out/kept") == fingerprint(alone / "kept")
    begun = [json.loads(line) for line in (tmp_path / "out/kept/environment.jsonl").read_text().splitlines()]
    assert [(start["launcher"], start["stages"]) for start in begun] == [("torchrun", 2)] * 2


REFUSED = """
import json, os, sys
from ffdist import FfdistError, Pipeline
from pathlib import Path

found, pipeline = [], Pipeline("mlp", "sff")
for ranks_of_a_host, stages in ((1, 2), (2, 1)):
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks_of_a_host)
    try:
        pipeline.fit("digits", epochs=1, progress=False, stages=stages)
    except FfdistError as error:
        found.append(str(error))
(Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
"""


def test_what_cannot_be_joined_is_an_error_on_every_rank(tmp_path: Path) -> None:
    hosts, stages = json.loads(run(tmp_path / "out", 2, script=REFUSED))
    assert "a run on several hosts needs a folder" in hosts
    assert "fit(data, out=FOLDER)" in hosts
    assert "plan.stages and torchrun disagree" in stages
