"""Statements that hold exactly, checked to many digits: no training, no seeds to choose."""

import math

import torch
from shared_core.claims import Context, Measurement

from spin_diffusion.gaussian import (
    GaussianDenoiser,
    Moments,
    expected_error,
    fixed_point,
    generated_moments,
    linear_alphas,
    spaced_timesteps,
    wasserstein2,
)
from spin_diffusion.losses import LINKS, denoising_error, spin_loss
from spin_diffusion.reproduce.registry import claims, new_figure
from spin_diffusion.schedules import NoiseSchedule
from spin_diffusion.shift_chain import solve_iteration
from spin_diffusion.trajectory import Predict, ReverseChain, trajectory_terms

DATA = Moments(1.5, 0.25)
STEP_COUNTS = (3, 5, 10, 20)


@claims.add(
    "first-update",
    statement="At the opponent the loss is log 2, and its gradient is beta / 2 times that of (error on real samples "
    "minus error on the opponent's): self-play starts as SFT with the opponent's error subtracted.",
    where="eq. (4.9); derived (S1)",
    quantity="largest relative gap between the loss's gradient and that difference, over 40 opponents",
    expected="< 1e-9, and |loss - log 2| < 1e-12",
)
def first_update(context: Context) -> Measurement:
    """Autograd through the loss against autograd through plain errors, on the same noised samples."""
    schedule = NoiseSchedule(linear_alphas())
    generator = torch.Generator().manual_seed(context.seed)
    gaps, losses = [], []
    for _ in range(40):
        mean, variance = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        net = GaussianDenoiser(Moments(3 * mean, 0.1 + variance), schedule.alphas_cumprod)
        x0, noise = torch.randn(2, 512, 1, dtype=torch.float64, generator=generator)
        steps = torch.randint(1000, (512,), generator=generator)
        error = denoising_error(net(schedule.add_noise(x0, noise, steps), steps), noise)
        real, synthetic = error.chunk(2)
        found = spin_loss(real, synthetic, real.detach(), synthetic.detach(), beta=10.0)
        parameters = list(net.parameters())
        ours = torch.stack(torch.autograd.grad(found.loss, parameters, retain_graph=True))
        plain = 5.0 * torch.stack(torch.autograd.grad(real.mean() - synthetic.mean(), parameters))
        gaps.append(float((ours - plain).norm() / plain.norm()))
        losses.append(abs(found.loss.item() - math.log(2)))
    return Measurement(max(gaps), holds=max(gaps) < 1e-9 and max(losses) < 1e-12, note=f"loss gap {max(losses):.1e}")


@claims.add(
    "gaussian-fixed-point",
    statement="Where self-play ends, generated mean and variance are the data's, however coarse the sampler; the "
    "optimum of SFT is not there.",
    where="theorem on the stationary point (p_theta = p_data); derived for a Gaussian denoiser under N-step DDIM (S7)",
    quantity="largest gap of generated moments at the fixed point, over N = 3, 5, 10, 20",
    expected="< 1e-9, with W2 of the SFT optimum 0.3446, 0.2383, 0.1309, 0.0693 to 4 digits",
)
def gaussian_fixed_point(context: Context) -> Measurement:
    """The linear recursion of moments at both parameters, and the gradient of (4.9) there."""
    alphas = linear_alphas()
    gaps, distances, gradients, notes = [], [], [], []
    for count in STEP_COUNTS:
        steps = spaced_timesteps(count)
        there = fixed_point(DATA, alphas, steps)
        found = generated_moments(there, alphas, steps)
        gaps.append(max(abs(found.mean - DATA.mean), abs(found.variance - DATA.variance)))
        distances.append(wasserstein2(generated_moments(DATA, alphas, steps), DATA))
        gradients.append(_gradient(there, alphas, steps))
        notes.append(f"N={count}: SFT W2 {distances[-1]:.4f}, fixed point ({there.mean:.5f}, {there.variance:.5f})")
    anchors = all(abs(a - b) < 5e-5 for a, b in zip(distances, (0.3446, 0.2383, 0.1309, 0.0693), strict=True))
    figure, axes = new_figure("Gaussian data, DDIM: where SFT and self-play end", "DDIM steps N", "W2 to the data")
    counts = range(2, 41)
    axes.plot(counts, [_distance(DATA, n) for n in counts], label="SFT optimum (any amount of training)")
    axes.plot(counts, [_distance(fixed_point(DATA, alphas, spaced_timesteps(n)), n) for n in counts],
              label="fixed point of self-play")  # fmt: skip
    axes.legend()
    return Measurement(
        max(gaps),
        holds=max(gaps) < 1e-9 and anchors and max(gradients) < 1e-9,
        note="; ".join([*notes, f"gradient of (4.9) at the fixed points {max(gradients):.1e}"]),
        figures=(context.save_figure("gaussian-fixed-point", figure),),
    )


def _distance(theta: Moments, count: int) -> float:
    return wasserstein2(generated_moments(theta, linear_alphas(), spaced_timesteps(count)), DATA)


def _gradient(theta: Moments, alphas: torch.Tensor, steps: list[int]) -> float:
    net = GaussianDenoiser(theta, alphas)
    gap = expected_error(net, DATA) - expected_error(net, generated_moments(theta, alphas, steps))
    return float(torch.stack(torch.autograd.grad(gap, list(net.parameters()))).norm())


@claims.add(
    "contraction",
    statement="With the exact objective and the logistic link, p_{k+1} is proportional to p_k (p_data / p_k)^(1/lambda)"
    ": errors shrink by 1 - 1/lambda in every iteration, and at lambda = 1 one iteration is enough.",
    where="closed form of the opponent's update; derived for a chain of shifted kernels (S4)",
    quantity="largest |error / first error - (1 - 1/lambda)^k| over lambda = 1, 2, 5 and five iterations",
    expected="< 1e-6",
)
def contraction(context: Context) -> Measurement:
    """Every iteration's optimum by numerical minimisation of the exact loss (quadrature), T = 3 steps."""
    target, sigma = (torch.tensor(v, dtype=torch.float64) for v in ((1.0, -0.5, 0.3), (0.5, 1.0, 0.8)))
    worst, lines = 0.0, []
    for lam in (1.0, 2.0, 5.0):
        theta, errors = torch.zeros(3, dtype=torch.float64), []
        for k in range(1, 2 if lam == 1 else 6):
            theta = solve_iteration(theta, target, sigma, lam)
            relative = (target - theta) / target
            worst = max(worst, float((relative - (1 - 1 / lam) ** k).abs().max()))
            errors.append(float(relative.abs().max()))
        lines.append(f"lambda {lam:g}: " + ", ".join(f"{error:.4f}" for error in errors))
    return Measurement(worst, holds=worst < 1e-6, note="error / first error: " + "; ".join(lines))


@claims.add(
    "upper-bound",
    statement="The approximate objective (4.9) is an upper bound of the exact one (4.8) on the same trajectories.",
    where="eq. (4.9), by convexity of the link",
    quantity="share of trajectory pairs on which exact <= approximate, over links",
    expected="= 1",
)
def upper_bound(context: Context) -> Measurement:
    """The link of a sum against the mean of the link of T times each term, for stored trajectories."""
    schedule = NoiseSchedule(linear_alphas())
    chain = ReverseChain(schedule, spaced_timesteps(10))
    policy, opponent = (GaussianDenoiser(Moments(*m), schedule.alphas_cumprod) for m in ((1.2, 0.4), (1.0, 0.6)))
    generator = torch.Generator().manual_seed(context.seed)
    count = context.at(500, 10_000, 100_000)
    real_noise, own_noise = torch.randn(2, 11, count, 1, dtype=torch.float64, generator=generator)
    x0 = DATA.mean + DATA.variance**0.5 * torch.randn(count, 1, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        paths = chain.posterior(x0, real_noise), chain.sample(predict_along(opponent, chain), own_noise)
        (real, synthetic), (ref_real, ref_synthetic) = (
            [trajectory_terms(predict_along(net, chain), chain, path) for path in paths] for net in (policy, opponent)
        )
        terms = -(real - synthetic - ref_real + ref_synthetic)
    shares, gaps = [], []
    for name, link in LINKS.items():
        exact, approximate = link(terms.sum(0)), link(len(chain) * terms).mean(0)
        shares.append(float((exact <= approximate + 1e-9 * approximate.abs()).double().mean()))
        gaps.append(f"{name} {exact.mean():.3g} <= {approximate.mean():.3g}")
    return Measurement(min(shares), holds=min(shares) == 1, note=f"{count} pairs, T = 10; means: {'; '.join(gaps)}")


def predict_along(net: GaussianDenoiser, chain: ReverseChain) -> Predict:
    """The denoiser as the trajectory objective asks it: by the chain's step."""
    return lambda x, step: net(x, chain.timesteps[step].expand(len(x)))
