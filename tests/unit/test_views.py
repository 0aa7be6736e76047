"""Accuracy by several views of a picture: apart from the plain one, and by the mean of their scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ffdist
from ffdist import SFF, Pipeline, open_data
from ffdist.cli import main
from ffdist.errors import ConfigError
from ffdist.pipeline.views import VIEWS, View, views_of


def test_views_are_mirrored_and_moved() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(View(1.0).of(x), x)
    assert torch.equal(View(1.0, mirrored=True).of(x), x.flip(3))
    moved = View(1.0, 1).of(x)
    assert torch.equal(moved[..., 1:, 1:], x[..., :-1, :-1])
    assert torch.equal(moved[..., 0, 1:], x[..., 1, :-1]), "mirrored at the edge"
    assert torch.equal(View(1.0, -1).of(x)[..., :-1, :-1], x[..., 1:, 1:])


@pytest.mark.parametrize(("names", "passes"), [((), 1), (("flip",), 2), (("shift",), 3), (("shift", "flip"), 6)])
def test_the_weights_make_one(names: tuple[str, ...], passes: int) -> None:
    views = views_of(names, (3, 8, 8))
    assert len(views) == passes
    assert sum(view.weight for view in views) == 1
    assert views[0].weight == max(view.weight for view in views)


@pytest.mark.parametrize(("names", "shape"), [(("rotate",), (3, 8, 8)), (("flip",), (64,)), (("shift",), (3, 1, 8))])
def test_what_has_no_such_views_is_refused(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        views_of(names, shape)


def test_eval_tells_views_apart_and_by_the_mean_of_their_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_data("digits")
    pipeline = Pipeline("cnnb", SFF(), model_args=["widths=4,6,8"], batch_size=64, epochs=1, validation=0.0)
    pipeline.fit(images, out=tmp_path / "run", progress=False)
    classifier = ffdist.load(tmp_path / "run")
    plain, seen = classifier.evaluate(images), classifier.evaluate(images, views=VIEWS)
    views = seen.pop("views")
    assert seen == plain
    capsys.readouterr()
    main(["eval", str(tmp_path / "run"), "--views", "flip", "shift", "--json"])
    assert json.loads(capsys.readouterr().out)["views"] == views
    test = pipeline.result and images.test
    assert test
    rows = torch.arange(len(test)).numpy()
    x = torch.from_numpy(test.take(rows)).permute(0, 3, 1, 2).float() / 255
    normalised = (x - torch.tensor(images.mean).view(1, -1, 1, 1)) / torch.tensor(images.std).view(1, -1, 1, 1)
    with torch.no_grad():
        last = sum(v.weight * classifier.scores(v.of(normalised))["conv3"] for v in views_of(VIEWS, images.shape))
    assert isinstance(last, torch.Tensor)
    right = int((last.argmax(1) == torch.from_numpy(test.labels)).sum())
    assert views["accuracy"]["last"] == right / len(test)
    assert views["passes"] == 6
