"""Every shell script of ours."""

from __future__ import annotations

import os
import shutil

import pytest
from commands import ROOT, Command, run

SCRIPTS = sorted(
    path
    for folder in ("launch", "docker", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
)


def test_every_script_is_one_that_shellcheck_has_nothing_to_say_of() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    run(Command(["shellcheck", "--external-sources", *SCRIPTS]))


def test_every_script_stops_at_the_first_error_and_can_be_executed() -> None:
    assert len(SCRIPTS) >= 2
    for script in SCRIPTS:
        assert "set -euo pipefail" in script.read_text(), script
        assert os.access(script, os.X_OK), script
