"""`ffdist plan` and `Pipeline.plan`: what they print, and what they refuse."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked

from ffdist import SFF, Pipeline, models, open_data
from ffdist.bench.victims import descendants, left_of
from ffdist.cli import main
from ffdist.errors import ConfigError
from ffdist.plan import read_plan

SMALL = ["plan", "--threads", "1", "--batch-size", "32", "--model-args", "widths=4,6,8"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Measured once for all of these."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFDIST_CACHE", str(folder))
        patch.setattr("ffdist.planner.measure.EXTRA_SECONDS", 0.0)
        yield folder


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    main([*SMALL, *args])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, *args])
    assert stop.value.code != 0
    return capsys.readouterr().err


def test_stages_a_row_each_and_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--devices", "2")
    for word in ("stage", "workers", "idle", "KiB exchanged", "best plan", "pipeline", "data parallel", "DDP", "1F1B"):
        assert word in text
    assert "Speed, simulated" in text
    assert text.splitlines()[-1].startswith("the plan: conv1")


def test_json_is_a_plan_that_a_run_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--devices", "2", "--json")
    (tmp_path / "plan.json").write_text(text)
    plan, told = read_plan(tmp_path / "plan.json"), json.loads(text)
    plan.check(["conv1", "conv2", "conv3"])
    assert (str(plan), plan.lanes) == (told["text"], told["lanes"])
    assert {"best plan", "pipeline", "data parallel", "backprop, DDP", "backprop, 1F1B"} == set(told["simulated"])
    priced = json.loads(printed(capsys, "--devices", "2", "--json", "--plan", str(tmp_path / "plan.json")))
    assert (priced["plan"], priced["seconds"]) == (told["plan"], told["seconds"])


def test_a_given_plan_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--devices", "2", "--plan", "conv1@0 | conv2@0:0,1:1-3 | conv3@1", "--link", "1gbit")
    assert "given plan" in text
    assert "0:0, 1:1-3" in text
    assert "link 1gbit,50us" in text


def test_an_exchange_has_its_price(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--devices", "4", "--json", "--link", "1gbit", "--plan", "* @ 0-3", "--exchange")
    sent = {by: json.loads(printed(capsys, *given, by))["stages"][0]["exchanged_bytes"] for by in ("halves", "whole")}
    assert sent["whole"] > 1.9 * sent["halves"] > 0


def test_lanes_that_are_set_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "--devices", "2", "--json", "--lanes", "1"))["lanes"] == 1
    assert json.loads(printed(capsys, "--devices", "3", "--json", "--lanes", "4"))["lanes"] == 4
    (tmp_path / "three.toml").write_text("[training]\nlanes = 3\n")
    told = ("--config", str(tmp_path / "three.toml"), "--devices", "2", "--plan", "auto", "--json")
    assert json.loads(printed(capsys, *told))["lanes"] == 3


def test_replicas_have_two_samples_a_lane_as_norms_want_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, "--devices", "64", "--link", "1gbit", "--microbatches", "2", "--json"))
    assert told["lanes"] <= 32 // 2 // 2


def test_what_is_simulated_is_labelled_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plots" / "scaling.svg"
    told = ("--devices", "2", "--simulate", "2,8", "--link", "25gbit", "--plot", str(plot))
    text = printed(capsys, *told)
    assert "Samples/s, simulated" in text
    assert text.count("simulated") >= 4
    assert plot.read_text().startswith("<?xml")
    rows = json.loads(printed(capsys, *told, "--json"))["scaled"]
    assert [(row["devices"], row["batch"]) for row in rows] == [(2, 64), (8, 256)]
    assert all(set(row["simulated"]) == {"best plan", "backprop, DDP", "backprop, 1F1B"} for row in rows)
    assert (tmp_path / "plots" / "scaling-2.svg").exists()  # the first one is still there
    printed(capsys, *told[:-1], "none")
    assert len(list((tmp_path / "plots").iterdir())) == 2
    text = refused(capsys, *told[:-1], "/proc/no-folder/x.svg")
    assert "the picture cannot be written" in text
    assert "Traceback" not in text


def test_a_memory_limit_is_kept_or_an_error_says_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "--devices", "2", "--memory-limit", "1KiB")
    assert "no plan keeps to the memory limit" in text
    least = next(line for line in text.splitlines() if "expected" in line).split()[1]
    told = json.loads(printed(capsys, "--devices", "2", "--memory-limit", least, "--json"))
    assert told["memory_bytes"] <= float(least.removesuffix("MiB")) * 2**20


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--devices", "0"), "--devices"),
        (("--devices", "2", "--speeds", "1"), "--speeds"),
        (("--devices", "2", "--speeds", "1,0"), "--speeds"),
        (("--devices", "2", "--speeds", "fast,slow"), "--speeds"),
        (("--devices", "2", "--speeds", ""), "--speeds"),
        (("--devices", "2", "--speeds", "1,,1"), "--speeds"),
        (("--link", "fast"), "--link"),
        (("--memory-limit", "8"), "--memory-limit"),
        (("--lanes", "0"), "--lanes"),
        (("--lanes", "many"), "--lanes"),
        (("--lanes", "64"), "--lanes"),
        (("--lanes", "16", "--microbatches", "4"), "--lanes times --microbatches"),
        (("--devices", "64", "--plan", "* @ 0-63"), "--lanes times --microbatches"),
        (("--simulate", ""), "--simulate"),
        (("--simulate", "8,x"), "--simulate"),
        (("--simulate", "8,5000"), "--simulate"),
        (("--devices", "1", "--plan", "* @ 0-1"), "more workers than there are devices"),
        (("--plan", "conv1 @ 0"), "leaves blocks out"),
        (("--objective", "backprop"), "twin is one block"),
        (("--stages", "2"), "--stages"),
        (("--launcher", "threads"), "--launcher"),
        (("no-such-preset",), "no-such-preset"),
    ],
)
def test_what_is_wrong_is_one_clear_error(args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, *args)
    assert text.count("ffdist: error") == 1
    assert said in text
    assert "Traceback" not in text


def test_in_python_it_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = open_data("digits")
    pipeline = Pipeline(models.cnnb(images.shape, images.num_classes, (4, 6, 8)), SFF(), batch_size=32, threads=1)
    found = pipeline.plan(images, devices=2, link="1gbit", lanes=2)
    told = ("--devices", "2", "--link", "1gbit", "--lanes", "2", "--json", "--plan", str(found.plan))
    assert json.loads(printed(capsys, *told))["text"] == str(found.plan)
    assert next(iter(found.speeds)) == "best plan"
    assert [row.devices for row in found.scaled([2, 4])] == [2, 4]
    with pytest.raises(ConfigError, match="not a link"):
        pipeline.plan(images, devices=2, link="fast")
    with pytest.raises(ConfigError, match="no plan keeps"):
        pipeline.plan(images, devices=2, memory_limit=1000)
    (tmp_path / "plan.json").write_text(json.dumps(found.as_json()))
    assert pipeline.plan(images, devices=2, plan=tmp_path / "plan.json", link="1gbit").plan == found.plan
    for name, value in {"devices": "2", "link": 1e9, "memory_limit": [1], "speeds": 5, "plan": 1}.items():
        with pytest.raises(ConfigError, match=f"{name} has a wrong value"):
            pipeline.plan(images, **{"devices": 2, name: value})
    with pytest.raises(ConfigError, match=r"plan\.stages is not a setting that a plan depends on"):
        pipeline.plan(images, devices=2, stages=2)
    with pytest.raises(ConfigError, match="lanes and the plan disagree"):
        pipeline.plan(images, devices=2, plan=found.plan, lanes=found.plan.lanes + 1)
    with pytest.raises(ConfigError, match=r"(?s)not a link.*got: nothing"):
        pipeline.plan(images, devices=2, link="")
    with pytest.raises(ConfigError, match="a plan needs devices"):
        found.scaled([1.5])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"training\.lanes is too small"):
        pipeline.plan(images, devices=2, lanes=0)


def test_told_to_stop_while_a_link_is_measured_it_leaves_no_process() -> None:
    command = [sys.executable, "-m", "ffdist", *SMALL, "--devices", "2", "--fresh"]
    with Forked(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("between two processes" in line for line in process.stderr)
        while not (seen := set(descendants(process.pid))):
            assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not left_of(seen, 2)
