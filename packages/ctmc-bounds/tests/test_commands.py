"""Every verb as a user types it, on real input; the table of bad input."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from ctmc_bounds import (
    CallableData,
    CallableScore,
    HMMData,
    MixtureData,
    ProductData,
    Schedule,
    TableData,
    TimeFrozen,
    UniformCTMC,
    constant,
    exp_const,
    make_sampler,
)
from ctmc_bounds.cli import main
from ctmc_bounds.spec import mix
from shared_core.errors import InputError


@pytest.fixture
def run(monkeypatch):
    """Exit code, stdout and stderr of a command line."""

    def go(*arguments):
        monkeypatch.setattr("sys.argv", ["ctmc-bounds", *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
        return code, out.getvalue(), err.getvalue()

    return go


def rows(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)["rows"]


def test_law_prints_json_and_writes_a_folder(run, tmp_path):
    (row,) = rows(run("law", "--N", 16, "--init", "exact", "--json", "--out", tmp_path / "law"))
    assert row["KL"] == pytest.approx(6.0176e-3, rel=1e-4)
    assert row["calls"] == pytest.approx(33.97)
    stored = json.loads((tmp_path / "law" / "result.json").read_text())
    assert stored["rows"][0]["KL"] == row["KL"]
    assert (tmp_path / "law" / "figures" / "law.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "law" / "rows.csv").read_text().startswith("sampler,N,calls,KL")


def test_laws_of_estimates_and_other_samplers(run):
    noisy = rows(run("law", "--data", "ising:d=4", "--score-noise", 0.2, "--json"))[0]
    exact = rows(run("law", "--data", "ising:d=4", "--json"))[0]
    assert noisy["KL"] > exact["KL"]
    clipped = rows(run("law", "--sampler", "euler", "--N", 4, "--clip", "--json"))[0]
    assert clipped["clipped_rows"] > 0
    assert rows(run("law", "--data", "product:d=300,S=3", "--json"))[0]["TV"] is None


def test_bound_shows_kl_below_girsanov_below_certified_and_labels_memory(run):
    found = {row["quantity"].strip(): row for row in rows(run("bound", "--N", 16, "--json"))}
    values = [found[k]["value"] for k in ("KL(q_delta || law), measured", "(G) Girsanov", "(C) certified closed form")]
    assert values == sorted(values)
    assert "memory" in found["paper, Theorem 1 (form from memory)"]["status"]
    biased = {row["quantity"].strip(): row["value"] for row in rows(run("bound", "--score-bias", 0.1, "--json"))}
    assert biased["(B) score term of a constant log-bias"] == pytest.approx(biased["score sum h L_SE(t_k)"])
    full = {row["quantity"].strip() for row in rows(run("bound", "--delta", 0, "--grid", "constant", "--json"))}
    assert "paper, Theorem 2 (form from memory)" in full


def test_scan_gives_exponents_and_resumes_row_by_row(run, tmp_path, monkeypatch):
    arguments = ("scan", "--over", "N", "--values", "16,32,64", "--init", "exact", "--json", "--out", tmp_path / "scan")
    first = rows(run(*arguments))
    assert [row["exponent"] for row in first if row["sampler"] == "paper"][1:] == pytest.approx([-2, -2], abs=0.1)

    def never(*_):
        raise AssertionError("a finished row was computed again")

    monkeypatch.setattr("ctmc_bounds.verbs.scan._row", never)
    assert rows(run(*arguments)) == first


@pytest.mark.parametrize(
    ("over", "values"), [("d", "4,8"), ("T", "2,4"), ("delta", "0.1,0.01"), ("eps", "0.1,0.01"), ("sigma", "0.1,0.2")]
)
def test_scan_over_everything(run, over, values):
    assert len(rows(run("scan", "--over", over, "--values", values, "--samplers", "paper", "--N", 8, "--json"))) == 2


def test_scan_over_S_and_a_fixed_step(run):
    assert len(rows(run("scan", "--data", "ramps:d=2", "--over", "S", "--values", "2,3", "--N", 8, "--json"))) == 4
    found = rows(
        run("scan", "--over", "T", "--values", "1,2", "--h", 0.1, "--delta", 0, "--samplers", "paper", "--json")
    )
    assert [row["N"] for row in found] == [10, 20]


def test_compare_at_equal_calls(run, tmp_path):
    names = "paper,midpoint,thinning,tweedie,theta_trapezoidal"
    found = rows(run("compare", "--samplers", names, "--calls", "24,48", "--json", "--out", tmp_path / "c"))
    assert all(row["calls"] <= 48 for row in found)
    assert [row["sampler"] for row in found].count("thinning") == 1
    assert (tmp_path / "c" / "figures" / "kl-against-calls.png").exists()


def test_plan_with_and_without_data(run):
    with_data = rows(run("plan", "--data", "mix:d=4", "--eps", 0.01, "--delta", 0.01, "--json"))
    assert all(row["value"] <= 0.01 for row in with_data)
    worst = rows(run("plan", "--S", 3, "--d", 10, "--eps", 0.1, "--tv", 0.05, "--samplers", "paper,thinning", "--json"))
    assert worst[0]["N"] > 100
    assert worst[1]["calls"] > 10


def test_schedule_sums_to_the_horizon(run):
    found = rows(run("schedule", "--optimal", "--N", 12, "--json"))
    assert sum(row["h"] for row in found) == pytest.approx(5.99)


def test_sample_saves_integers(run, tmp_path):
    run("sample", "--n", 50, "--save", tmp_path / "x.npy", "--N", 8, "--quiet")
    x = np.load(tmp_path / "x.npy")
    assert (x.shape, x.dtype.kind) == ((50, 6), "i")
    run("sample", "--n", 50, "--save", tmp_path / "x.csv", "--N", 8, "--sampler", "uniformization", "--quiet")
    assert np.loadtxt(tmp_path / "x.csv", delimiter=",").shape == (50, 6)
    (row,) = rows(run("law", "--data", f"{tmp_path / 'x.csv'}:S=2,smoothing=0.1", "--json"))
    assert row["states"] == 64


def test_verify_passes_on_real_data(run):
    code, out, _ = run("verify", "--data", "digits:rows=2,cols=2", "--json")
    assert (code, json.loads(out)["failed"]) == (0, [])


def test_train_then_use_the_network(run, tmp_path):
    data, folder = "digits:rows=2,cols=2", tmp_path / "net"
    train = ("train", "--data", data, "--steps", 60, "--width", 16, "--out", folder, "--quiet", "--json")
    assert len(rows(run(*train))) == 3
    assert rows(run(*train))  # done already: nothing is trained again
    assert rows(run("law", "--data", data, "--network", folder, "--json"))[0]["KL"] > 0
    assert rows(run("sample", "--data", data, "--network", folder, "--n", 20, "--sampler", "thinning", "--json"))
    code, _, err = run("law", "--data", "mix:d=6", "--network", folder)
    assert code == 2
    assert "S = 2, d = 4; the data have S = 2, d = 6" in err


def test_files_of_laws(run, tmp_path):
    np.save(tmp_path / "table.npy", np.full((3, 3), 1 / 9))
    np.savez(tmp_path / "table.npz", S=2, d=3, probs=np.full(8, 1 / 8))
    (tmp_path / "law.json").write_text(
        json.dumps({"kind": "markov", "d": 3, "initial": [0.5, 0.5], "transition": [[0.9, 0.1], [0.2, 0.8]]})
    )
    for name in ("table.npy", "table.npz", "law.json"):
        assert rows(run("law", "--data", tmp_path / name, "--N", 4, "--json"))[0]["KL"] < 1


BAD = {
    ("--data", "mix:d=0"): "d = 0: there must be at least one token, give d >= 1",
    ("--data", "ramps:S=1"): "S = 1: a token needs at least 2 values",
    ("--data", "mix:x=1"): "no key 'x'; keys: d",
    ("--data", "mix:d"): "'d' is not key=number",
    ("--data", "nothing"): "'nothing' is no kind",
    ("--data", "no.npy"): "no.npy: No such file",
    ("--data", "ising:d=40"): "S^d = 2^40 = 1099511627776 states is above the cap of 1048576",
    ("--T", "-1"): "T = -1.0: the noise level at which sampling starts must be finite and above 0",
    ("--delta", "-0.1"): "delta = -0.1: the noise level at which sampling stops must satisfy 0 <= delta < T = 6.0",
    ("--delta", "7"): "0 <= delta < T = 6.0",
    ("--delta", "0"): "delta = 0 with schedule exp_const: its steps shrink with t and never reach 0",
    ("--N", "0"): "N = 0: a schedule needs at least one interval",
    ("--c", "2"): "c = 2.0: the step h = c min(1, t) needs 0 < c < 1",
    ("--sampler", "magic"): "--sampler: expected one of",
    ("--sampler", "euler", "--N", "4"): "h lambda = ",
    ("--representation", "product"): "representation product needs product data",
    ("--score-noise", "-1"): "--score-noise -1.0: a standard deviation is >= 0",
    ("--score-noise", "0.1", "--representation", "counts"): "keeps the symmetry of the data",
    ("--network", "nowhere"): "holds no network.safetensors; make one with the verb train",
    ("--device", "mps:3"): "device",
    ("--seed", "-1"): "seed must be in 0..2**32-1",
    ("--data", "two-point:d=3", "--delta", "0", "--grid", "constant"): "Assumption 2",
    ("--sampler", "theta_rk2", "--theta", "1"): "theta = 1.0: the second call is inside the step",
    ("--data", "ising:d=10", "--sampler", "theta_rk2"): "is above the cap of 512",
}  # fmt: skip


@pytest.mark.parametrize("options", BAD)
def test_bad_input_of_law_is_one_line(run, options):
    code, out, err = run("law", *options)
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert BAD[options] in err


def test_bad_input_of_other_verbs(run, tmp_path):
    table = {
        ("plan", "--eps", "0", "--data", "mix", "--delta", "0.1"): "eps = 0.0: the target KL must be above 0",
        ("plan", "--eps", "0.1"): "plan needs --data, or --S and --d",
        ("plan", "--data", "mix"): "give one of them",
        ("plan", "--S", "2", "--d", "3", "--delta", "0.1", "--by", "exact"): "by exact needs --data",
        ("bound", "--sampler", "thinning"): "--sampler",
        ("compare", "--samplers", "paper,nope"): "'nope' is none of paper",
        ("compare", "--calls", "0"): "a budget is at least 1 call",
        ("scan", "--over", "N", "--values", ""): "--values",
        ("scan", "--over", "x", "--values", "1"): "--over",
        ("scan", "--over", "d", "--values", "4.5"): "must be whole numbers, got [4.5]",
        ("scan", "--data", "cat4", "--over", "d", "--values", "4"): "no key 'd'",
        ("sample", "--n", "0"): "n = 0: ask for at least one sample",
        ("sample", "--save", "x.txt"): "give a name that ends in .npy or .csv",
        ("sample", "--sampler", "thinning", "--delta", "0", "--grid", "constant"): "delta = 0 with sampler thinning",
        ("sample", "--sampler", "uniformization", "--score-bias", "3"): "clip the score",
        ("train", "--delta", "0", "--out", str(tmp_path / "t")): "training needs delta > 0",
        ("verify", "--data", "mix:d=13"): "above the cap of 4096 for verify",
    }
    for arguments, words in table.items():
        code, _, err = run(*arguments)
        assert code == 2, arguments
        assert words in err.splitlines()[-1], arguments


def test_bad_files(run, tmp_path):
    np.save(tmp_path / "negative.npy", np.array([1.5, -0.5]))
    np.save(tmp_path / "sum.npy", np.array([0.5, 0.4]))
    np.save(tmp_path / "shape.npy", np.full((2, 3), 1 / 6))
    np.savez(tmp_path / "less.npz", S=2, probs=np.full(8, 1 / 8))
    (tmp_path / "kind.json").write_text('{"kind": "x"}')
    (tmp_path / "rows.json").write_text(
        '{"kind": "markov", "d": 2, "initial": [0.5, 0.5], "transition": [[1, 1], [0, 1]]}'
    )
    (tmp_path / "half.csv").write_text("0,1\n0,1.5\n")
    (tmp_path / "words.csv").write_text("a,b\n")
    (tmp_path / "pickle.npy").write_bytes(b"not numpy")
    table = {
        "negative.npy": "holds -0.5 < 0",
        "sum.npy": "sums to 0.9, off 1 by 0.1",
        "shape.npy": "the table has shape (2, 3); expected (S,)*d",
        "less.npz": "has no d; expected S, d and probs",
        "kind.json": "kind 'x' is none of",
        "rows.json": "a row of the transition matrix sums to 2",
        "half.csv": "holds 1.5; tokens are integers",
        "words.csv": "cannot be read",
        "pickle.npy": "cannot be read",
        "half.csv:S=x": "is not key=number",
    }
    for name, words in table.items():
        code, _, err = run("law", "--data", tmp_path / name)
        assert code == 2, name
        assert words in err, (name, err)


def test_bad_values_in_the_library_name_quantity_value_and_remedy():
    data = mix(3)
    x = torch.zeros(2, 3, dtype=torch.long)
    sampler = TimeFrozen(exp_const(6, 0.01, 4))

    def scored(value):
        return CallableScore(2, 3, lambda x, t: torch.full((len(x), 3, 2), value))

    cases = [
        (lambda: data.score(x + 2, 0.1), "token 2 is out of range; tokens are integers 0..1"),
        (lambda: data.score(x[:, :2], 0.1), r"tokens have shape \(2, 2\); expected \(batch, d\) with d = 3"),
        (lambda: data.score(x.double(), 0.1), "dtype torch.float64; give integers"),
        (lambda: exp_const(float("inf"), 0.1, 4), "T = inf: .* must be finite and above 0"),
        (lambda: Schedule((6.0, 7.0, 0.1)), "t_0 = 6 is followed by 7"),
        (lambda: Schedule.from_sampler_times([0, 1, 2], 6, 0.1), "runs from 0 to 2; expected 0 to T - delta = 5.9"),
        (lambda: sampler.law(data, scored(-1.0)), r"holds -1 < 0"),
        (lambda: sampler.law(data, scored(float("nan"))), "is not finite"),
        (
            lambda: sampler.law(data, CallableScore(2, 3, lambda x, t: torch.ones(len(x), 3))),
            r"expected \(batch, d, S\)",
        ),
        (lambda: sampler.law(data, CallableScore(2, 4, None)), "the estimator is for S = 2, d = 4"),
        (lambda: sampler.law(data, CallableScore(2, 3, lambda x, t: torch.ones(len(x), 3, 2), "posterior")), "softmax"),
        (lambda: MixtureData([0.5, 0.6], [[[0.5, 0.5]], [[0.5, 0.5]]]), "weights sums to 1.1"),
        (lambda: MixtureData([1.0], [[0.5, 0.5]]), "do not fit"),
        (lambda: ProductData([0.5, 0.5]), r"expected \(d, S\)"),
        (lambda: TableData(np.full(7, 1 / 7), 2, 3), "7 entries"),
        (lambda: HMMData(3, [1.0], [[1.0]], [[0.5, 0.6]]), "emission matrix sums to 1.1"),
        (lambda: CallableData(2, 3, lambda x: x.sum(1).double()), "nothing is renormalised"),
        (lambda: UniformCTMC(2, 0), "d = 0"),
        (lambda: sampler.law(data, init="middle"), "init 'middle' must be uniform"),
        (lambda: sampler.law(data, init=torch.ones(4)), "init sums to 4"),
        (lambda: sampler.sample(5, scored(1.0), init="exact"), "init 'exact'"),
        (lambda: sampler.sample(5, data, init=x), "init holds 2 samples; n = 5"),
        (lambda: make_sampler("euler", constant(6, 0.01, 2)).law(data), "h lambda = .* > 1"),
        (lambda: sampler.law(data, lambda x, t: x), "wrap a function as CallableScore"),
        (lambda: sampler.sample(5, torch.nn.Identity()), "a network as NetworkScore"),
        (lambda: make_sampler("x", constant(6, 0.01, 2)), "sampler 'x' is none of"),
    ]
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()
