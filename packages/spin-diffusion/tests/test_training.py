"""The loop: every option does what it says, on networks of any make."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_core.errors import InputError, RunError
from spin_diffusion import Optimization, Sampler, SPINConfig, SPINTrainer, TrainingSet, fine_tune, prefer, preset
from spin_diffusion.batches import Source
from spin_diffusion.guard import DivergenceGuard
from spin_diffusion.optimization import make_optimizer, micro_batches, rate_factor
from spin_diffusion.processes import make_accelerator
from spin_diffusion.schedules import schedule_of, step_weights
from torch import nn

OPTIMIZATION = Optimization(
    [1e-3], [4], warmup_steps=1, train_batch_size=6, per_device_train_batch_size=6, save_steps=1
)
CONFIG = SPINConfig(
    iterations=1, beta=[100.0], optimization=OPTIMIZATION, sampler=Sampler(num_inference_steps=3, guidance_scale=1.5)
)


def play(net: nn.Module, data: TrainingSet, config: SPINConfig, **options: Any) -> Any:
    from diffusers import DDIMScheduler

    trainer = SPINTrainer(net, options.pop("scheduler", DDIMScheduler()), data, config, **options)
    return trainer, trainer.run()


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def test_one_update_is_adamw_on_the_loss_written_out(mlp: Any, vectors: Any) -> None:
    """Against a plain loop: the same samples, timesteps, noise, reference and optimiser."""
    from diffusers import DDIMScheduler
    from spin_diffusion.noise import draw

    config = replace(
        CONFIG, optimization=replace(OPTIMIZATION, max_train_steps=[2], lr_schedule="constant", warmup_steps=0)
    )
    net, plain, frozen = mlp(), mlp(), mlp()
    trainer = SPINTrainer(net, DDIMScheduler(), vectors, config)
    opponents = trainer.generate()
    source = trainer._source(0, opponents)
    result = trainer.train_iteration(0, opponents)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=1e-2)
    scheduler = DDIMScheduler()
    for step in range(2):
        items, visits = source.visits(range(6 * step, 6 * step + 6))
        drawn = draw(0, 0, items, visits, 1000, (6,))
        label = vectors.condition(items)["class_labels"].repeat(2)
        clean = torch.cat([vectors.latents.take(items), opponents.take(items)])
        noise, steps = drawn.noise.repeat(2, 1), drawn.steps.repeat(2)
        noised = scheduler.add_noise(clean, noise, steps)
        ours = (plain(noised, steps, label) - noise).square().mean(1)
        theirs = (frozen(noised, steps, label) - noise).square().mean(1).detach()
        difference = ours - theirs
        loss = -nn.functional.logsigmoid(-100 * (difference[:6] - difference[6:])).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    assert result.last["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-6)


def test_accumulated_micro_batches_are_one_batch(mlp: Any, vectors: Any) -> None:
    one, other = mlp(), mlp()
    play(one, vectors, CONFIG)
    play(other, vectors, replace(CONFIG, optimization=replace(OPTIMIZATION, per_device_train_batch_size=2)))
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-6)


def test_an_iteration_meets_every_item_equally_often_and_every_opponent_in_turn(vectors: Any) -> None:
    from diffusers import DDIMScheduler

    many = TrainingSet.of(torch.arange(20.0).repeat_interleave(6).view(20, 6)).latents
    ones = torch.ones(1000)
    source = Source(vectors, schedule_of(DDIMScheduler()), ones, 0, opponents=many, samples_per_prompt=2)
    items, visits = source.visits(range(20))
    assert sorted(items[:10]) == sorted(items[10:]) == list(range(10))
    assert items[:10] != items[10:]
    assert visits == [0] * 10 + [1] * 10
    assert sorted(source.opponent_rows(items, visits)) == list(range(20))


def test_members_of_a_pair_share_timestep_and_noise_unless_told_otherwise(vectors: Any) -> None:
    from diffusers import DDIMScheduler

    schedule, device = schedule_of(DDIMScheduler()), torch.device("cpu")
    ones = torch.ones(1000)
    shared = Source(vectors, schedule, ones, 0, opponents=vectors.latents).batch([0, 1, 2], device)
    assert torch.equal(shared.noised[:3], shared.noised[3:])
    apart = Source(vectors, schedule, ones, 0, opponents=vectors.latents, share_noise=False).batch([0, 1, 2], device)
    assert torch.equal(apart.noised[:3], shared.noised[:3])
    assert not torch.equal(apart.time[:3], apart.time[3:])


def test_caption_dropout_takes_the_null_condition_for_both_members(vectors: Any) -> None:
    from diffusers import DDIMScheduler

    source = Source(
        vectors, schedule_of(DDIMScheduler()), torch.ones(1000), 0, opponents=vectors.latents, caption_dropout=0.5
    )
    labels = source.batch(range(100), torch.device("cpu")).condition["class_labels"]
    assert torch.equal(labels[:100], labels[100:])
    assert 30 < int((labels[:100] == 3).sum()) < 70


def test_the_rate_rises_and_falls_and_is_never_zero() -> None:
    settings = Optimization(warmup_steps=3)
    assert [rate_factor(step, 7, settings) for step in range(7)] == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    assert rate_factor(5, 7, replace(settings, lr_schedule="constant")) == 1
    assert rate_factor(5, 7, replace(settings, lr_schedule="cosine")) == pytest.approx(0.5)
    assert min(rate_factor(step, 2, Optimization(warmup_steps=200)) for step in range(2)) > 0


def test_the_player_is_the_moving_average_where_one_is_kept(mlp: Any, vectors: Any) -> None:
    plain, averaged = mlp(), mlp()
    start = weights(plain)
    play(plain, vectors, CONFIG)
    play(averaged, vectors, replace(CONFIG, optimization=replace(OPTIMIZATION, ema_decay=0.9)))
    assert 0 < float((weights(averaged) - start).norm()) < 0.8 * float((weights(plain) - start).norm())


@pytest.mark.parametrize(
    "change",
    [
        {"link": "hinge"}, {"link": "correlation"}, {"weighting": "elbo"}, {"weighting": "snr"}, {"share_noise": False},
        {"caption_dropout": 0.3}, {"beta_convention": "salesforce"}, {"samples_per_prompt": 2}, {"beta": [50.0]},
    ],
)  # fmt: skip
def test_every_setting_of_the_game_changes_the_player(mlp: Any, vectors: Any, change: dict[str, Any]) -> None:
    one, other = mlp(), mlp()
    play(one, vectors, CONFIG)
    _, (result,) = play(other, vectors, replace(CONFIG, **change))
    assert not torch.equal(weights(one), weights(other))
    assert result.first["loss"] == pytest.approx({"hinge": 1, "correlation": 1}.get(change.get("link", ""), 0.6931472))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_other_targets_and_error_spaces(mlp: Any, vectors: Any, prediction: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type=prediction)
    native, eps = mlp(), mlp()
    play(native, vectors, CONFIG, scheduler=scheduler)
    play(eps, vectors, replace(CONFIG, error_space="eps"), scheduler=scheduler)
    assert not torch.equal(weights(native), weights(eps))


def test_flow_matching_plays_the_game(mlp: Any, vectors: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    _, (result,) = play(mlp(), vectors, CONFIG, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert result.first["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_checkpointing_layout_and_half_precision_train(unet: Any, images: Any) -> None:
    plain, other, half = unet(), unet(), unet()
    _, (reference,) = play(plain, images, CONFIG)
    changed = replace(OPTIMIZATION, gradient_checkpointing=True, channels_last=True)
    _, (result,) = play(other, images, replace(CONFIG, optimization=changed))
    assert result.last["loss"] == pytest.approx(reference.last["loss"], abs=1e-5)
    torch.testing.assert_close(weights(plain), weights(other), rtol=0, atol=5e-4)  # Adam divides by small gradients
    accelerator = make_accelerator("float32")
    accelerator.state._mixed_precision = "bf16"  # the state is one a process
    try:
        for mode in ("copy", "table"):
            _, (result,) = play(half, images, replace(CONFIG, ref_mode=mode), accelerator=accelerator)
            assert result.first["loss"] == pytest.approx(0.6931472, abs=1e-6), (
                "policy and reference differ in precision"
            )
    finally:
        accelerator.state._mixed_precision = "no"
    assert reference.last["loss"] != result.last["loss"]
    assert weights(half).dtype == torch.float32


def test_sft_lowers_the_error_and_dpo_prefers_the_winner(mlp: Any, vectors: Any) -> None:
    from diffusers import DDIMScheduler

    optimization = replace(OPTIMIZATION, max_train_steps=[200], learning_rate=[3e-3], lr_schedule="constant")
    config = replace(CONFIG, optimization=optimization, caption_dropout=0.1)
    net = mlp()
    rows = fine_tune(net, DDIMScheduler(), vectors, config)
    assert sum(row["loss"] for row in rows[-40:]) < 0.9 * sum(row["loss"] for row in rows[:40])
    losers = TrainingSet.of(torch.randn(10, 6)).latents
    rows = prefer(net, DDIMScheduler(), vectors, losers, config)
    assert rows[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert sum(row["z"] for row in rows[-40:]) > 0
    with pytest.raises(InputError, match="10 items need 10 samples"):
        prefer(net, DDIMScheduler(), vectors, TrainingSet.of(torch.randn(9, 6)).latents, config)


def test_the_guard_sees_errors_explode_although_the_loss_falls(mlp: Any, vectors: Any, caplog: Any) -> None:
    wild = replace(OPTIMIZATION, learning_rate=[0.3], max_train_steps=[30], lr_schedule="constant")
    config = replace(CONFIG, beta=[1.0], optimization=wild)
    _, (result,) = play(mlp(), vectors, config)
    assert result.last["d_real"] > 0.1
    assert "the run diverges, although its loss falls" in caplog.text
    with pytest.raises(RunError, match="raise beta or lower learning_rate"):
        play(mlp(), vectors, replace(config, guard="stop"))
    caplog.clear()
    _, (shrunk,) = play(mlp(), vectors, replace(config, guard="shrink"))
    assert shrunk.last["learning_rate"] < 0.3
    caplog.clear()
    play(mlp(), vectors, replace(config, guard="off"))
    assert "diverges" not in caplog.text


def stops(guard: DivergenceGuard, step: int, metrics: dict[str, float]) -> bool:
    try:
        guard(step, metrics)
    except RunError:
        return True
    return False


def test_the_guard_waits_and_forgets_nothing() -> None:
    healthy, exploding = {"d_real": 1e-4, "ref_real": 0.08}, {"d_real": 0.01, "ref_real": 0.08}
    guard = DivergenceGuard("stop")
    for step in range(1, 40):
        guard(step, healthy)
    other = DivergenceGuard("stop")
    other.restore(guard.state())
    for each in (guard, other):
        stopped = next(step for step in range(40, 60) if stops(each, step, exploding))
        assert stopped < 50


def test_the_held_out_error_is_compared_with_theta_0(mlp: Any, vectors: Any, caplog: Any) -> None:
    wild = replace(OPTIMIZATION, learning_rate=[0.3], max_train_steps=[15], lr_schedule="constant")
    config = replace(CONFIG, beta=[1.0], optimization=wild, guard="warn")
    _, (result,) = play(mlp(), vectors, config, held_out=vectors.subset([0, 1, 2]))
    assert result.held_out["error"] > 1.05 * result.held_out["start_error"]
    assert 0 <= result.held_out["implicit_accuracy"] <= 1
    assert "above that of theta_0" in caplog.text
    with pytest.raises(RunError, match="theta_0"):
        play(mlp(), vectors, replace(config, guard="stop", guard_limit=1e9), held_out=vectors.subset([0, 1, 2]))


def test_numbers_that_are_not_finite_end_the_run(mlp: Any, vectors: Any) -> None:
    broken = mlp()
    with torch.no_grad():
        broken.last.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="the sample for item 0 is not finite"):
        play(broken, vectors, CONFIG)


def test_a_share_of_each_process_covers_the_batch_once() -> None:
    class Two:
        num_processes = 2

        def __init__(self, index: int) -> None:
            self.process_index = index

    settings = replace(OPTIMIZATION, train_batch_size=7, per_device_train_batch_size=2)
    shares = [
        [pair for part in micro_batches(3, settings, Two(index)) for pair in zip(*part, strict=True)]
        for index in (0, 1)
    ]
    assert len(shares[0]) == len(shares[1]) == 4
    assert sorted(place for share in shares for place, weight in share if weight) == list(range(21, 28))


def test_presets_and_settings_out_of_range() -> None:
    assert preset("paper").optimization.train_batch_size == 2048
    bad: list[tuple[dict[str, Any], str]] = [
        ({"beta": [0.0]}, "beta must be positive"), ({"iterations": 0}, "iterations must be at least 1"),
        ({"ref_mode": "adapter"}, "needs LoRA"), ({"objective": "trajectory"}, "eta > 0"),
        ({"beta": [1.0, 2.0]}, "beta has 2 values for 1 iterations"), ({"guard": "no"}, "guard must be one of"),
        ({"caption_dropout": 1.0}, r"must be in \[0, 1\)"), ({"samples_per_prompt": 0}, "at least 1"),
    ]  # fmt: skip
    for change, words in bad:
        with pytest.raises(InputError, match=words):
            replace(CONFIG, **change)
    with pytest.raises(InputError, match="learning_rate must be positive"):
        Optimization([-1.0])
    with pytest.raises(InputError, match="precision float16 needs a GPU"):
        make_accelerator("float16", cpu=True)
    with pytest.raises(InputError, match="bitsandbytes"):
        make_optimizer([nn.Parameter(torch.zeros(1))], Optimization(optim="adamw8bit"), 1e-3)


def test_weights_of_steps_reach_the_loss(mlp: Any, vectors: Any) -> None:
    from diffusers import DDIMScheduler

    schedule = schedule_of(DDIMScheduler())
    table = step_weights(schedule, "elbo")
    source = Source(vectors, schedule, table, 0, opponents=vectors.latents)
    batch = source.batch(range(5), torch.device("cpu"))
    torch.testing.assert_close(batch.weights, table.float()[batch.time[:5]])


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_folder_resumes_between_and_within_iterations(
    unet: Any, images: Any, tmp_path: Path, lora_rank: int
) -> None:
    """Killed at update 2 of iteration 1 (of 0 and 1), the same call ends at the same bits."""
    from diffusers import DDIMScheduler
    from spin_diffusion import Lora

    config = replace(
        CONFIG, iterations=2, lora=Lora(rank=lora_rank, alpha=3.0), optimization=replace(OPTIMIZATION, ema_decay=0.5)
    )
    whole = unet()
    SPINTrainer(whole, DDIMScheduler(), images, config, tmp_path / "whole", held_out=images.subset([0, 1])).run()

    class KilledError(Exception):
        pass

    def killing(trainer: SPINTrainer, number: int) -> None:
        original = trainer._updates

        def updates(iteration: int, source: Any, reference: Any) -> Any:
            inner = original(iteration, source, reference)

            def accumulate(scorer: Any, step: int) -> Any:
                if iteration == number and step == 2:
                    raise KilledError
                return inner(scorer, step)

            return accumulate

        trainer._updates = updates  # type: ignore[method-assign]

    for number in (0, 1):
        trainer = SPINTrainer(
            unet(), DDIMScheduler(), images, config, tmp_path / "parts", held_out=images.subset([0, 1])
        )
        killing(trainer, number)
        with pytest.raises(KilledError):
            trainer.run()
    resumed = unet()
    SPINTrainer(resumed, DDIMScheduler(), images, config, tmp_path / "parts", held_out=images.subset([0, 1])).run()
    assert torch.equal(weights(whole), weights(resumed))
    for name in ("iter_0", "iter_1"):
        for file in ("iteration.json", "metrics.jsonl"):
            assert (tmp_path / "whole" / name / file).read_text() == (tmp_path / "parts" / name / file).read_text()


def test_a_transformer_of_stable_diffusion_3_plays_with_flow_matching(tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from spin_diffusion import Lora

    torch.manual_seed(0)
    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=12, out_channels=4,
    )  # fmt: skip
    conditions = {"encoder_hidden_states": torch.randn(6, 5, 16), "pooled_projections": torch.randn(6, 12)}
    null = {name: torch.zeros_like(value[:1]) for name, value in conditions.items()}
    data = TrainingSet.of(torch.randn(6, 4, 8, 8), conditions, null)
    config = replace(CONFIG, lora=Lora(rank=2, alpha=2.0))
    trainer, (result,) = play(net, data, config, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert result.first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    trainer.save_pretrained(tmp_path / "player")
    from safetensors.torch import load_file

    assert all(
        name.startswith("transformer.") for name in load_file(tmp_path / "player" / "pytorch_lora_weights.safetensors")
    )
