"""Workflows, Dockerfile and compose files name only what exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ffdist.cli import COMMANDS
from ffdist.settings.toml import tomllib

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
    assert users == ["1000:1000"] * 3, "by number: Kubernetes' runAsNonRoot knows no names"
    assert not re.search(r"apt-get install[^&]*(gcc|g\+\+|build-essential|clang)", DOCKERFILE)


def test_any_user_may_write_below_the_home_that_all_have() -> None:
    assert re.search(r"install -d -m 1777 /work /work/data /work/runs$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ENV .*\bHOME=/work\b", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^WORKDIR /work$", DOCKERFILE, re.MULTILINE)


def test_the_first_process_hands_on_signals() -> None:
    entries = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    assert [json.loads(entry) for entry in entries] == [["tini", "-s", "--", "ffdist"]], "of the base, and so of all"


def test_triton_leaves_in_the_layer_that_pip_brings_it_in() -> None:
    installs = [run for run in re.findall(r"^RUN (?:.*\\\n)*.*", DOCKERFILE, re.MULTILINE) if "pip install -r" in run]
    assert len(installs) == 2
    assert all("pip uninstall -y triton" in run for run in installs)


def test_a_commit_changes_the_last_layers_alone() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    with_commit = [stage for stage in stages if "ENV FFDIST_COMMIT" in stage]
    assert len(with_commit) == 3
    assert all("RUN" not in stage.partition("FFDIST_COMMIT")[2] for stage in with_commit)


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


def test_no_documented_run_is_lost_with_its_container() -> None:
    for document in ("README.md", "docker/README.md", "launch/README.md", "docker/Dockerfile"):
        text = (ROOT / document).read_text().replace("\\\n", " ")
        for line in re.findall(r"docker run .*\btrain\b.*", text):
            assert re.search(r"-v \S+:/work", line), f"{document}: {line}"


def test_documents_of_images_name_programs_arguments_and_files_that_exist() -> None:
    text = (ROOT / "docker" / "README.md").read_text()
    stages = {name for _, name in STAGES}
    assert set(re.findall(r"--target (\S+)", text)) <= stages
    assert set(re.findall(r"--build-arg \"?(\w+)=", text)) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for name in re.findall(r"\]\(([\w./]+)\)|\b(docker/\w+\.sh)", text):
        assert any((ROOT / folder / "".join(name)).exists() for folder in ("", "docker")), name
    commands = re.findall(r"^    docker run .*?ffdist:\w+ (\w+)", text.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) > 8
    assert set(commands) <= set(COMMANDS)


def test_constraints_are_within_what_ffdist_asks_for() -> None:
    lines = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    named = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in named.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in map(Requirement, [*project["dependencies"], *extras["bench"], *extras["ray"]]):
        if wanted.marker and not wanted.marker.evaluate({"python_version": "3.12"}):  # that of the images
            continue
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted
    assert "triton" not in pins


def test_ray_containers_have_room_for_their_object_store() -> None:
    nodes = services(ROOT / "docker" / "ray.compose.yaml").values()
    starts = [node["command"] for node in nodes if node["command"].startswith("start")]
    assert starts
    stores = [int(re.findall(r"--object-store-memory=\$\{STORE:-(\d+)\}", start)[0]) for start in starts]
    assert max(stores) <= 2**30 / 2, "half of shm_size: stages send through it, too"
    assert {node["shm_size"] for node in nodes} == {"${SHM:-1gb}"}


def test_the_shell_scripts_of_images_never_write_over_a_record() -> None:
    assert "[[ -e $record ]] || break" in (ROOT / "docker" / "verify.sh").read_text()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"results/", "runs/"} <= set(ignored)
