"""The claims at smoke scale."""

import json

import pytest


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    from leaky_relu_bias.reproduce import claims

    out = tmp_path_factory.mktemp("reproduce") / "smoke"
    code = claims.reproduce(scale="smoke", out=out, device="cpu")
    return code, out, json.loads((out / "result.json").read_text())


def test_every_claim_of_the_brief_is_measured(smoke):
    code, _, result = smoke
    assert {row["id"].split("-")[0] for row in result["claims"]} == {f"E{k}" for k in range(1, 9)}
    assert code == 0
    assert all(row["verdict"] == "reproduced" or row["note"] for row in result["claims"])


def test_figures_are_written(smoke):
    _, out, result = smoke
    figures = [figure for row in result["claims"] for figure in row["figures"]]
    assert len(figures) >= 8
    assert all((out / figure).stat().st_size > 5000 for figure in figures)
