import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from icl_linear import (
    ICLTransformer,
    LinearAttention,
    Training,
    deinterleave,
    evaluate_module,
    interleave,
    make_model,
    make_optimizer,
    make_problem,
    minimal_risk,
    prefix_dmmse,
    prefix_ridge,
    ridge_coefficients,
    train_module,
)
from shared_core.errors import InputError, RunError

CPU = torch.device("cpu")


def _layer(model, X, y, x):
    """The definition, scores and all: [Z + (V Z)(K Z)^T (Q Z) / n] at the last row and column."""
    d, n = model.d, X.shape[1]
    Z = torch.zeros(len(X), d + 1, n + 1)
    Z[:, :d, :n], Z[:, d, :n], Z[:, :d, n] = X.mT, y, x
    return (Z + (model.value @ Z) @ (model.key @ Z).mT @ (model.query @ Z) / n)[:, d, n]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 99))
def test_full_attention_is_the_layer_it_says(d, n, seed):
    torch.manual_seed(seed)
    model = LinearAttention(d, "full", scale=1.0)
    torch.nn.init.normal_(model.value)
    X, y, x = torch.randn(3, n, d), torch.randn(3, n), torch.randn(3, d)
    assert torch.allclose(model(X, y, x), _layer(model, X, y, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", ["merged", "factored", "full"])
def test_prefixes_are_the_model_on_each_prefix(weights):
    torch.manual_seed(0)
    model = LinearAttention(3, weights).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    X, y = torch.randn(4, 6, 3).double(), torch.randn(4, 6).double()
    found = model.prefix_predictions(X, y)
    assert torch.equal(found[:, 0], torch.zeros(4).double())
    for i in range(1, 6):
        assert torch.allclose(found[:, i], model(X[:, :i], y[:, :i], X[:, i]))


def test_every_parameterisation_is_the_one_step_form_of_its_gamma():
    torch.manual_seed(0)
    X, y, x = torch.randn(4, 6, 3).double(), torch.randn(4, 6).double(), torch.randn(4, 3).double()
    for weights in ("merged", "factored", "full"):
        model = LinearAttention(3, weights).double()
        for weight in model.parameters():
            torch.nn.init.normal_(weight)
        if weights == "full":
            assert model.outside_gamma() > 0
            with torch.no_grad():  # the paper's sparsity
                model.value[-1, :-1], model.key[:, -1], model.query[:, -1] = 0, 0, 0
        assert model.outside_gamma() == 0
        v = torch.einsum("bnd,bn->bd", X, y) / 6
        assert torch.allclose(model(X, y, x), (x @ model.to_gamma() * v).sum(-1))


def test_the_transformer_is_causal_and_reads_the_interleaved_sequence():
    torch.manual_seed(0)
    model = ICLTransformer(3, 5, layers=1, width=8, heads=2).eval()
    X, y = torch.randn(2, 6, 3), torch.randn(2, 6)
    sequence = interleave(X, y)
    assert torch.equal(sequence[:, 1], torch.tensor([[float(v), 0, 0] for v in y[:, 0]]))
    assert all(torch.equal(a, b) for a, b in zip(deinterleave(sequence), (X, y), strict=True))
    found = model.prefix_predictions(X, y)
    changed = y.clone()
    changed[:, 3:] += 1
    assert torch.allclose(model.prefix_predictions(X, changed)[:, :4], found[:, :4], atol=1e-6)
    assert torch.allclose(model(X[:, :5], y[:, :5], X[:, 5]), found[:, 5], atol=1e-6)
    with pytest.raises(InputError, match="holds 5 examples"):
        model.prefix_predictions(torch.randn(1, 7, 3), torch.randn(1, 7))
    with pytest.raises(InputError, match="multiple of heads"):
        ICLTransformer(3, 5, width=9, heads=2)
    with pytest.raises(InputError, match="even"):
        deinterleave(sequence[:, :3])


@pytest.mark.parametrize("method", ["recursive", "cholesky"])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (5, 2), (12, 4), (4, 9)])
def test_prefix_ridge_is_a_loop_of_solves(method, n, d):
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(7, n, d, generator=generator, dtype=torch.float64)
    y = torch.randn(7, n, generator=generator, dtype=torch.float64)
    found = prefix_ridge(X, y, 0.3, method=method)
    assert torch.allclose(found[:, 0], torch.zeros(7).double())
    for i in range(1, n):
        loop = (X[:, i] * ridge_coefficients(X[:, :i], y[:, :i], 0.3)).sum(-1)
        assert torch.allclose(found[:, i], loop, atol=1e-11)


def test_dmmse_weighs_the_pool_by_its_likelihood():
    generator = torch.Generator().manual_seed(0)
    pool, X = torch.randn(5, 2, generator=generator), torch.randn(3, 4, 2, generator=generator)
    y = torch.randn(3, 4, generator=generator)
    found = prefix_dmmse(X, y, pool, 0.7)
    for i in range(4):
        logs = -((y[:, :i, None] - X[:, :i] @ pool.T) ** 2).sum(1) / (2 * 0.49)
        assert torch.allclose(found[:, i], (logs.softmax(-1) @ pool * X[:, i]).sum(-1), atol=1e-5)
    assert torch.allclose(prefix_dmmse(X, y, pool[:1], 0.7), (X @ pool[0]))


def test_training_reaches_the_optimum_and_evaluation_sees_it():
    problem = make_problem("iso", 2, sigma=0.5, trace=2.0)
    training = Training(model="factored", context=10, steps=250, batch_size=128, learning_rate=0.03)
    model = make_model(2, training)
    train_module(model, make_optimizer(model, training), problem, training, CPU)
    gamma = model.to_gamma().detach()
    assert torch.allclose(gamma.double(), torch.diag(problem.gamma_star(10)), atol=0.12)
    found = evaluate_module(model, problem, [10], prompts=4000, device=CPU)[0]
    over = float(minimal_risk(problem, 10)) - problem.sigma**2
    assert found.model == pytest.approx(over, abs=4 * found.model_error + 0.1 * over)
    assert found.ridge < found.model


def test_a_learning_rate_that_is_too_large_ends_the_run_with_its_reason():
    training = Training(model="gamma", context=5, steps=60, batch_size=4, learning_rate=1e6, optimizer="sgd")
    model = make_model(3, training)
    with pytest.raises(RunError, match="lower the learning rate"):
        train_module(model, make_optimizer(model, training), make_problem("iso", 3), training, CPU)


def test_modules_name_their_bad_arguments():
    X, y = torch.randn(2, 4, 3), torch.randn(2, 4)
    for call, says in (
        (lambda: LinearAttention(3, "diagonal"), "weights must be"),
        (lambda: LinearAttention(0), "d must be"),
        (lambda: prefix_ridge(X, y[:, :2], 1.0), "y must have shape 2 x 4"),
        (lambda: prefix_ridge(X, y, 0.0), "penalty"),
        (lambda: ridge_coefficients(X[:, :2], y[:, :2], 0.0), "penalty above 0"),
        (lambda: prefix_dmmse(X, y, torch.ones(2, 3), 0), "sigma"),
        (lambda: make_optimizer(LinearAttention(2), Training(optimizer="lion")), "optimizer must be"),
        (lambda: Training(learning_rate=-1), "learning_rate"),
        (lambda: Training(pool=0), "pool"),
    ):
        with pytest.raises(InputError, match=says):
            call()
