"""T6: copy, adapter and table are one reference; merged and summed adapters are the trained ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_core.errors import InputError, RunError
from spin_diffusion import Lora, Optimization, Sampler, SPINConfig, SPINTrainer
from spin_diffusion.config import RefMode
from spin_diffusion.lora import add_lora, load_lora_state, lora_state, merge_lora, summed
from spin_diffusion.references import adapters_off, check_alike
from spin_diffusion.schedules import schedule_of

FULL, ADAPTED = Lora(), Lora(rank=2, alpha=6.0)


def config(ref_mode: RefMode, lora: Lora = FULL, **options: Any) -> SPINConfig:
    return SPINConfig(
        iterations=2,
        beta=[500.0],
        ref_mode=ref_mode,
        lora=lora,
        optimization=Optimization([1e-3], [3], warmup_steps=1, train_batch_size=6, per_device_train_batch_size=4),
        sampler=Sampler(num_inference_steps=3, guidance_scale=2.0, batch_size=8),
        **options,
    )


def played(net: Any, data: Any, settings: SPINConfig) -> list[Any]:
    from diffusers import DDIMScheduler

    return SPINTrainer(net, DDIMScheduler(), data, settings).run()


@pytest.mark.parametrize(("lora", "modes"), [(FULL, ["copy", "table"]), (ADAPTED, ["copy", "adapter", "table"])])
def test_all_references_give_the_same_losses_and_the_same_players(
    unet: Any, images: Any, lora: Lora, modes: list[RefMode]
) -> None:
    nets = [unet() for _ in modes]
    games = [played(net, images, config(mode, lora)) for net, mode in zip(nets, modes, strict=True)]
    assert all(item.first["loss"] == pytest.approx(0.6931472, abs=1e-6) for game in games for item in game)
    for game, net in zip(games[1:], nets[1:], strict=True):
        assert [item.last for item in game] == [item.last for item in games[0]]
        for one, other in zip(net.parameters(), nets[0].parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_larger_reference_pass_changes_nothing_but_rounding(unet: Any, images: Any) -> None:
    small = config("table")
    large = replace(small, optimization=replace(small.optimization, reference_batch_size=16))
    for one, other in zip(played(unet(), images, small), played(unet(), images, large), strict=True):
        assert other.last["loss"] == pytest.approx(one.last["loss"], abs=1e-3)
        assert other.first["loss"] == pytest.approx(0.6931472, abs=1e-4)


def test_with_lora_the_opponent_of_iteration_two_is_theta_1_and_not_the_base(unet: Any, images: Any) -> None:
    """Its first loss would not be log 2, were the adapter not merged."""
    game = played(unet(), images, config("adapter", ADAPTED))
    assert game[1].first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert game[1].first["ref_fake"] != game[0].first["ref_fake"]


def test_a_reference_that_is_not_the_policy_is_noticed_at_the_first_update(unet: Any, images: Any) -> None:
    from diffusers import DDIMScheduler
    from spin_diffusion.losses import LINK_AT_ZERO
    from spin_diffusion.optimization import check_first_loss

    check_first_loss(LINK_AT_ZERO["hinge"], 1.0, Optimization())
    with pytest.raises(RunError, match=r"must be 0\.6931"):
        check_first_loss(0.891, LINK_AT_ZERO["logistic"], Optimization())
    stranger = SPINTrainer(unet(), DDIMScheduler(), images, config("copy"), ref_net=unet(seed=5))
    assert stranger.train_iteration(0, stranger.generate()).first["loss"] != pytest.approx(0.6931, abs=1e-3)


def test_adapters_are_off_for_a_while_and_stay_trainable(unet: Any, images: Any) -> None:
    net = unet()
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 2])
    before = net(x, t, class_labels=y).sample
    add_lora(net, ADAPTED, 0)
    assert torch.equal(net(x, t, class_labels=y).sample, before)  # zero-initialised
    trained = [name for name, weight in net.named_parameters() if weight.requires_grad]
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    with adapters_off(net):
        assert torch.equal(net(x, t, class_labels=y).sample, before)
    assert trained == [name for name, weight in net.named_parameters() if weight.requires_grad]
    adapted = net(x, t, class_labels=y).sample
    assert not torch.equal(adapted, before)
    merge_lora(net)
    torch.testing.assert_close(net(x, t, class_labels=y).sample, adapted, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="needs a network with LoRA"), adapters_off(net):
        pass


def test_the_sum_of_adapters_is_one_adapter(unet: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    states, merged, wide = [], unet(), unet()
    for seed in range(2):
        add_lora(merged, ADAPTED, seed)
        with torch.no_grad():
            for name, weight in merged.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(seed))
        states.append(lora_state(merged))
        merge_lora(merged)
    total = summed(states)  # type: ignore[arg-type]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=ADAPTED.targets), wide, "default")
    load_lora_state(wide, total)
    merge_lora(wide)
    for one, other in zip(merged.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_references_of_other_make_or_precision_are_refused(unet: Any) -> None:
    with pytest.raises(InputError, match="different networks"):
        check_alike(unet(), unet(block_out_channels=(8, 24)))
    with pytest.raises(InputError, match=r"torch.float32 in the policy and torch.bfloat16"):
        check_alike(unet(), unet().bfloat16())
    with pytest.raises(InputError, match="lora targets no_such"):
        add_lora(unet(), Lora(rank=1, targets=["no_such"]), 0)


def test_a_table_part_survives_a_kill(unet: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DDIMScheduler
    from spin_diffusion import references
    from spin_diffusion.batches import Source
    from spin_diffusion.processes import make_accelerator

    monkeypatch.setattr(references, "PART_STEPS", 1)
    schedule = schedule_of(DDIMScheduler())
    source = Source(images, schedule, torch.ones(1000), 0, opponents=images.latents)
    settings, accelerator = config("table").optimization, make_accelerator()
    whole = references.reference_table(unet(), source, settings, 3, accelerator)
    calls = []
    original = references.CopyReference.__call__

    def counting(self: Any, batch: Any) -> Any:
        calls.append(batch.positions)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(references.CopyReference, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        references.reference_table(unet(), source, settings, 3, accelerator, tmp_path / "reference.safetensors")
    resumed = references.reference_table(unet(), source, settings, 3, accelerator, tmp_path / "reference.safetensors")
    assert torch.equal(resumed, whole)
    assert calls[3] == calls[2]  # what was done is not repeated
    assert [file.name for file in tmp_path.iterdir()] == ["reference.safetensors"]
