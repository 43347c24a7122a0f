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
    steps = () if over == "eps" else ("--N", 8)
    assert len(rows(run("scan", "--over", over, "--values", values, "--samplers", "paper", *steps, "--json"))) == 2


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


def test_a_plan_that_nothing_can_meet_says_why(run, recwarn):
    plan = ("plan", "--data", "mix:d=3", "--eps", 0.001, "--delta", 0.1, "--T", 0.5, "--json")
    found = rows(run(*plan))
    assert all((row["N"], row["calls"]) == (None, None) and "raise T" in row["basis"] for row in found)
    assert [str(item.message) for item in recwarn.list] == []


def test_schedule_sums_to_the_horizon(run):
    found = rows(run("schedule", "--optimal", "--N", 12, "--json"))
    assert sum(row["h"] for row in found) == pytest.approx(5.99)


def test_sample_saves_integers(run, tmp_path):
    run("sample", "--n", 50, "--out", tmp_path / "x.npy", "--N", 8, "--quiet")
    x = np.load(tmp_path / "x.npy")
    assert (x.shape, x.dtype.kind) == ((50, 6), "i")
    run("sample", "--n", 50, "--out", tmp_path / "x.csv", "--N", 8, "--sampler", "uniformization", "--quiet")
    assert np.loadtxt(tmp_path / "x.csv", delimiter=",").shape == (50, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.npy"]
    run("sample", "--n", 50, "--out", tmp_path / "v0.1", "--N", 8, "--quiet")
    assert (np.load(tmp_path / "v0.1" / "samples.npy") == x).all()
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
    ("--score-noise", "-1"): "--score-noise -1.0: a standard deviation is finite and >= 0",
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
        ("compare", "--calls", "0"): "a budget is 1 to",
        ("scan", "--over", "N", "--values", ""): "--values",
        ("scan", "--over", "x", "--values", "1"): "--over",
        ("scan", "--over", "d", "--values", "4.5"): "must be whole numbers, got [4.5]",
        ("scan", "--data", "cat4", "--over", "d", "--values", "4"): "no key 'd'",
        ("sample", "--n", "0"): "n = 0: ask for at least one sample",
        ("sample", "--out", "x.txt"): "give a folder, or the name of a file that ends in .npy or .csv",
        ("sample", "--sampler", "thinning", "--delta", "0"): "delta = 0 with sampler thinning",
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
        "pickle.npy": "objects are refused",
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


def test_bad_files_of_every_kind_are_one_line(run, tmp_path):
    for name in ("zero.npy", "zero.npz", "zero.csv"):
        (tmp_path / name).touch()
    (tmp_path / "blank.csv").write_text("\n\n")
    (tmp_path / "inf.csv").write_text("inf,0\n1,1\n")
    (tmp_path / "huge.csv").write_text("1e300,0\n1,1\n")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("junk.npy", "junk.npz"):
        (tmp_path / name).write_text("no numbers at all")
    np.save(tmp_path / "objects.npy", np.array([{}]))
    np.savez(tmp_path / "objects.npz", S=2, d=1, probs=np.array([{}, {}]))
    arrays = {
        "rows.npy": np.zeros((0, 3), int), "words.npy": np.array(["a", "b"]), "complex.npy": np.full((2, 2), 0.25 + 1j),
        "bits.npy": np.array([True, False]), "table.npy": np.full((2, 2), 0.25),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    for name, S in (("vector.npz", [2, 3]), ("letter.npz", "x"), ("half.npz", 2.5)):
        np.savez(tmp_path / name, S=S, d=2, probs=np.full(4, 0.25))
    jsons = {
        "kind.json": '{"kind": ["ising"]}', "list.json": "[1]",
        "ragged.json": '{"kind": "markov", "d": 2, "initial": [0.5, 0.5], "transition": [[1, 0], [0]]}',
        "null.json": '{"kind": "product", "probabilities": null}', "d.json": '{"kind": "ising", "d": 2.5}',
        "J.json": '{"kind": "ising", "d": 3, "J": "strong"}',
        "flat.json": '{"kind": "markov", "d": 2, "initial": 0.5, "transition": [[1.0]]}',
    }  # fmt: skip
    for name, text in jsons.items():
        (tmp_path / name).write_text(text)
    table = {
        "zero.npy": "is empty", "zero.npz": "is empty", "zero.csv": "is empty", "blank.csv": "n >= 1",
        "inf.csv": "holds inf; tokens are integers", "huge.csv": "holds 1e+300",
        **{name: f"{name} is no .npy or .npz file of plain arrays (objects are refused)\n"
           for name in ("cut.npz", "junk.npy", "junk.npz", "objects.npy", "objects.npz")},
        "rows.npy": "samples of shape (0, 3)", "words.npy": "dtype <U1", "complex.npy": "dtype complex128",
        "bits.npy": "dtype bool", "table.npy:d=3": "takes no keys", "vector.npz": "S is [2, 3]",
        "letter.npz": "S is 'x'", "half.npz": "S is 2.5", "kind.json": "kind ['ising'] is none of",
        "list.json": "kind None is none of", "ragged.json": "transition is no array",
        "null.json": "probabilities is no",
        "d.json": "d = 2.5; expected a whole number", "J.json": "J = 'strong'; expected a number",
        "flat.json": "do not fit",
    }  # fmt: skip
    for name, words in table.items():
        code, out, err = run("law", "--data", tmp_path / name, "--N", 4)
        assert (code, out, err.count("\n")) == (2, "", 1), (name, err)
        assert words in err, name


IDLE = {
    ("law", "--c", 0.1, "--N", 32): "--N 32 has no effect beside --c",
    ("law", "--sampler", "thinning", "--N", 32): "on thinning, which has no intervals",
    ("law", "--theta", 0.3): "on samplers other than theta_trapezoidal",
    ("law", "--clip"): "--clip has no effect on the exact score",
    ("sample", "--envelope", "max"): "on samplers other than uniformization",
    ("scan", "--over", "N", "--values", "4", "--c", 0.1): "--c 0.1 has no effect beside --over N",
    ("scan", "--over", "T", "--values", "2", "--T", 3): "--T 3.0 has no effect beside --over T",
    ("scan", "--over", "h", "--values", "0.5", "--N", 3): "beside --over h",
    ("scan", "--over", "T", "--values", "2", "--h", 0.5, "--grid", "optimal"): "beside --h",
    ("scan", "--over", "eps", "--values", "0.1", "--score-noise", 0.1): "beside --over eps",
    ("scan", "--over", "d", "--values", "3", "--data", "mix:d=4"): "'d' is what is scanned over",
    ("plan", "--data", "mix", "--S", 2, "--delta", 0.1): "--S 2 has no effect beside --data mix",
    ("schedule", "--optimal", "--grid", "constant"): "--grid constant has no effect beside --optimal",
}  # fmt: skip


@pytest.mark.parametrize("arguments", IDLE)
def test_an_option_without_effect_is_refused(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert IDLE[arguments] in err


IMPOSSIBLE = {
    ("law", "--score-bias", 1000): "the score at t = 6 is not finite",
    ("law", "--score-bias", 100): "generator products, above the cap",
    ("law", "--score-bias", ".inf"): "the bias of log-scores must be finite",
    ("sample", "--score-bias", 100, "--n", 5): "the score is too large: clip it",
    ("law", "--c", "nan"): "--c: expected float. got nan",
    ("law", "--c", 1e-9): "more intervals than the cap",
    ("law", "--T", 1e4): "T = 10000.0: beyond 700",
    ("law", "--data", "hmm:d=3,d=4"): "each once",
    ("scan", "--over", "d", "--values", "1e9"): "one score has d S values",
    ("scan", "--over", "d", "--values", "20000"): "a table of the counts would take",
    ("scan", "--over", "h", "--values", "0"): "must be above 0, got [0.0]",
    ("scan", "--over", "h", "--values=-1"): "must be above 0, got [-1.0]",
    ("scan", "--over", "sigma", "--values=-1"): "a standard deviation is >= 0",
    ("scan", "--over", "N", "--values", ".nan"): "must be finite",
    ("bound", "--constant", -1): "--constant -1.0: a universal constant is finite and above 0",
    ("bound", "--constant", 0): "a universal constant is finite and above 0",
    ("bound", "--C1", -5): "--C1 -5.0: the largest score is at least 1",
    ("plan", "--data", "mix", "--eps", -1, "--delta", 0.1): "eps = -1.0: the target KL must be above 0",
    ("plan", "--S", 2, "--d", 1, "--tv", 0.9): "1 - S^-d = 0.5",
    ("verify", "--delta", 0): "give delta > 0",
    ("sample", "--n", 10**9): "do not fit into memory",
    ("compare", "--calls", ".inf"): "a budget is 1 to",
    ("compare", "--samplers", "paper", "--calls", 1): "nothing to compare: paper: 1 calls are fewer than its jumps",
}  # fmt: skip


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_what_cannot_be_computed_is_refused_in_one_line(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert IMPOSSIBLE[arguments] in err


def test_strong_or_degenerate_laws_have_exact_laws(run):
    for data in ("ising:d=5,J=200", "ising:d=5,J=-100", "hmm:d=3,sharp=0", "markov:d=4,stay=1"):
        (row,) = rows(run("law", "--data", data, "--N", 32, "--json"))
        assert 0 < row["KL"] < 0.1


def test_a_clipped_score_is_within_its_envelope(run):
    wild = ("--data", "ramps:d=3,S=8", "--score-bias", 3, "--n", 50, "--json")
    for sampler in ("uniformization", "thinning"):
        assert run("sample", "--sampler", sampler, *wild)[0] == 2
        assert rows(run("sample", "--sampler", sampler, "--clip", *wild))[0]["n"] == 50
    assert (
        rows(run("sample", "--sampler", "uniformization", "--envelope", "adaptive", *wild))[0]["raised_envelopes"] > 0
    )


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (("train", "--learning-rate", -1), ("train", "--steps", 5, "--width", 4)),
        (("train", "--width", 0), ("train", "--steps", 5, "--width", 4)),
        (("scan", "--values", "8,0"), ("scan", "--values", "4,8")),
        (("law", "--sampler", "euler", "--N", 2), ("law", "--N", 2)),
        (("sample", "--sampler", "uniformization", "--score-bias", 3), ("sample", "--n", 5)),
        (("verify", "--data", "mix:d=13"), ("verify", "--data", "mix:d=2")),
    ],
)
def test_a_refused_run_leaves_its_folder_free(run, tmp_path, bad, good):
    folder = tmp_path / "made" / "here"
    data = ("--data", "digits:rows=2,cols=2") if bad[0] == "train" else ()
    assert run(*bad, *data, "--out", folder)[0] == 2
    assert not folder.exists()
    folder.mkdir(parents=True)
    assert run(*bad, *data, "--out", folder)[0] == 2
    assert [item.name for item in folder.iterdir()] == []
    code, _, err = run(*good, *data, "--out", folder, "--quiet")
    assert code == 0, err
    assert run(*bad, *data, "--out", folder)[0] == 2
    assert (folder / "result.json").exists()


def test_nothing_is_computed_or_saved_for_a_folder_of_another_run(run, tmp_path, monkeypatch):
    assert run("law", "--N", 4, "--out", tmp_path / "a", "--quiet")[0] == 0
    monkeypatch.setattr("ctmc_bounds.verbs.work._drawn", lambda *_: pytest.fail("draws were made"))
    code, _, err = run("sample", "--n", 5, "--out", tmp_path / "a")
    assert (code, "holds another run" in err) == (2, True)


def test_calls_of_a_wrong_score_are_labelled(run):
    few = {"law": ("--N", 8), "compare": ("--calls", 24, "--samplers", "paper"), "scan": ("--values", "8")}
    for verb, options in few.items():
        code, out, _ = run(verb, "--score-bias", 0.1, "--json", *options)
        assert code == 0
        assert any("expected with the exact score" in note for note in json.loads(out)["notes"])
    assert "expected with the exact score" not in run("law", "--N", 8, "--json")[1]


def test_compare_with_too_few_calls_says_so_without_a_warning(run, recwarn):
    code, out, err = run("compare", "--samplers", "paper,tweedie", "--calls", "1", "--json")
    assert (code, err, [str(item.message) for item in recwarn.list]) == (0, "", [])
    assert "fewer than its jumps alone" in json.loads(out)["notes"][0]
