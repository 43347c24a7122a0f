"""The claims: registered with thresholds, all run at smoke scale, and their shared pieces do what they say."""

import json
from pathlib import Path

import pytest
import torch
from shared_core.claims import Context
from shared_core.run_folder import RunFolder

EXACT = ["first-update", "gaussian-fixed-point", "contraction", "upper-bound"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    from spin_diffusion.reproduce import claims

    out = tmp_path_factory.mktemp("reproduce") / "run"
    assert claims.reproduce(scale="smoke", out=out, device="cpu") == 0
    return json.loads((out / "result.json").read_text()) | {"out": out}


def test_exact_claims_hold_at_every_scale_and_trained_ones_are_undecided_at_smoke(result: dict) -> None:
    verdicts = {row["id"]: row["verdict"] for row in result["claims"]}
    assert {verdicts.pop(id) for id in EXACT} == {"reproduced"}
    assert set(verdicts.values()) == {"not at this scale"}
    assert [row["id"] for row in result["claims"]][:4] == EXACT


def test_every_figure_is_there(result: dict) -> None:
    figures = [figure for row in result["claims"] for figure in row["figures"]]
    assert len(figures) >= 7
    assert all((result["out"] / figure).stat().st_size > 5000 for figure in figures)


def test_a_study_is_the_same_twice_and_its_rivals_start_at_theta_0(tmp_path: Path) -> None:
    from spin_diffusion.reproduce import digits

    def scores(name: str) -> tuple:
        with RunFolder(tmp_path / name, package="spin-diffusion", settings={}) as folder:
            context = Context("smoke", 3, torch.device("cpu"), folder)
            each = digits.study(context, 0)
            weights = [weight.clone() for weight in each.start.parameters()]
            found = digits.self_play(context)[0], digits.continued(context)[0]
            assert all(torch.equal(a, b) for a, b in zip(weights, each.start.parameters(), strict=True))
            return found, each.before

    assert scores("one") == scores("two")


def test_pretraining_lowers_the_held_out_error() -> None:
    from spin_diffusion.reproduce.networks import MLPDenoiser, digits, train_classifier
    from spin_diffusion.reproduce.study import Study, held_out_error, pixel_scheduler, pretrain
    from spin_diffusion.schedules import schedule_of

    data, scheduler = digits(0), pixel_scheduler()
    torch.manual_seed(0)
    net = MLPDenoiser()
    study = Study(data, train_classifier(data, 0, 200), net, torch.arange(11), "class_labels", 0, 50, 3)
    before = held_out_error(net, study, 2)
    pretrain(net, data, schedule_of(scheduler), 100, 2e-3, 0)
    assert held_out_error(net, study, 2) < 0.7 * before
    assert study.floor.accuracy > 0.9


def test_the_split_is_a_partition_and_depends_on_the_seed() -> None:
    from spin_diffusion.reproduce.networks import digits

    one, other = digits(0), digits(1)
    assert (len(one.train), len(one.test)) == (1200, 597)
    assert not torch.equal(one.test, other.test)
    assert torch.cat([one.train, one.test]).sum() == pytest.approx(torch.cat([other.train, other.test]).sum().item())


def test_larger_reference_passes_agree_with_the_training_batches(mlp, vectors) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from diffusers import DDIMScheduler
    from spin_diffusion.batches import Source
    from spin_diffusion.config import Optimization
    from spin_diffusion.processes import make_accelerator
    from spin_diffusion.references import reference_table
    from spin_diffusion.schedules import schedule_of

    source = Source(vectors, schedule_of(DDIMScheduler()), torch.ones(1000), 0, opponents=vectors.latents)
    settings = Optimization([1e-3], [5], train_batch_size=6, per_device_train_batch_size=4)
    net, accelerator = mlp(), make_accelerator()
    small = reference_table(net, source, settings, 5, accelerator)
    large = reference_table(net, source, replace(settings, reference_batch_size=13), 5, accelerator)
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6)


def test_the_readmes_table_of_the_unets_is_the_one_of_the_kept_study() -> None:
    from spin_diffusion.reproduce.unets import study_table

    root = Path(__file__).parents[1]
    readme = (root / "README.md").read_text()
    for summary in json.loads((root / "benchmarks" / "unet_study.json").read_text()):
        assert "\n".join(study_table(summary)) in readme, summary["images"]
