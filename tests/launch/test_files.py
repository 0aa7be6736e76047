"""Workflows, Dockerfile and compose files name only what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
COMPOSE = sorted((ROOT / "docker").glob("*.compose.yaml"))
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
STAGES = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)


def commands(workflow: Path) -> list[str]:
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def services(compose: Path) -> dict[str, Any]:
    return yaml.safe_load(compose.read_text())["services"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(workflow: Path) -> None:
    text = "\n".join(commands(workflow))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= set(targets)
    assert set(re.findall(r"--target (\S+)", text)) <= {name for _, name in STAGES}


def test_the_tests_of_the_workflow_cover_what_is_supported_and_leave_no_part_out() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())["jobs"]
    assert set(jobs) == {"lint", "types", "tests", "wheel", "docker"}
    matrix = jobs["tests"]["strategy"]["matrix"]
    project = (ROOT / "pyproject.toml").read_text()
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", project)
    assert f'"torch>={matrix["torch"][0]}"' in project
    assert [part["part"] for part in matrix["include"]] == matrix["part"]


def test_images_are_pinned_end_without_root_and_install_no_compiler() -> None:
    base = re.search(r"^ARG BASE_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert base
    assert re.search(r":\d+\.\d+\.\d+", base[1])
    assert {"cpu", "cuda", "bench"} <= {name for _, name in STAGES}
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1] == users[0] == "ffdist"
    assert not re.search(r"apt-get install[^&]*(gcc|g\+\+|build-essential|clang)", DOCKERFILE)


def test_what_the_images_copy_is_in_the_build_context() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert name in allowed
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("compose", COMPOSE, ids=lambda path: path.name)
def test_compose_files_run_on_cpus_or_on_gpus_by_profile(compose: Path) -> None:
    for service in services(compose).values():
        assert set(service["profiles"]) <= {"cpu", "gpu"}
        assert "bench" in service["image"]
    profiles = [set(service["profiles"]) for service in services(compose).values()]
    assert {"cpu"} <= set().union(*profiles)
    assert all(s["runtime"] == "nvidia" for s in services(compose).values() if s["profiles"] == ["gpu"])
