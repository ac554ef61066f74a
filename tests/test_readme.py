"""Everything that the README shows runs, exists or holds."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys

import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


LOOPS = [block for block in blocks("bash") if "for " in block]
IN_BLOCKS = [line for b in blocks("bash") if b not in LOOPS for line in b.splitlines()]
OF_A_SCRIPT = [line for line in IN_BLOCKS if re.match(r"python \w+\.py", line)]


def assert_is_accepted(command, folder):
    """Reads the options as the script does, and gives them; other tests run them."""
    python, file, *args = shlex.split(command)
    assert python == "python" and (ROOT / file).is_file()
    options = None
    if args:
        options = importlib.import_module(file[:-3]).parse_args(args)
        names = {arg[2:].replace("-", "_") for arg in args if arg.startswith("--")}
        assert names <= set(vars(options))  # none of them an abbreviation
    assert list(folder.iterdir()) == []
    return options


@pytest.mark.parametrize("command", dict.fromkeys(OF_A_SCRIPT))
def test_command_is_accepted(command, in_tmp):
    assert_is_accepted(command, in_tmp)


def run_bash(command, folder):
    """Runs a command in the folder, where `python` is this Python."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    result = subprocess.run(["bash", "-c", command], **options, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def commands_of(loop, folder):
    """What the loop runs, one command a line."""
    return run_bash(loop.replace("python ", "echo python "), folder).splitlines()


def test_loop_over_seeds_prints_their_means(in_tmp, capsys):
    [loop] = [block for block in LOOPS if "awk" in block]
    commands = commands_of(loop.split("|")[0], in_tmp)
    seeds = [assert_is_accepted(command, in_tmp).seed for command in commands]
    assert seeds == list(range(1, 21))
    for name in CLASSIFIERS:
        importlib.import_module(name).main(["--epochs", "3", "--verbose", "0"])
        printed = capsys.readouterr().out
        (in_tmp / "printed").write_text(printed)
        means = run_bash(f"python() {{ cat printed; }}; {loop}", in_tmp).splitlines()
        # Every seed prints the same here, so that this is their mean.
        expected = {
            row.split()[0]: [float(x) for x in row.split()[-2:]]
            for row in printed.splitlines()
            if row.startswith(("LSTM", "BiLSTM", "its"))
        }
        assert len(expected) == len(means) == 2
        for row in means:
            name, *numbers = row.split()
            assert [float(x) for x in numbers] == pytest.approx(expected[name])


def test_loop_over_rates_writes_what_the_snippet_reads(in_tmp, capsys):
    [loop] = [block for block in LOOPS if "--learning-rate" in block]
    paths = {}
    for command in commands_of(loop, in_tmp):
        args = assert_is_accepted(command, in_tmp)
        assert f"_{args.learning_rate:g}.csv" in args.csv.name
        assert args.csv not in paths
        paths[args.csv] = args
    [snippet] = [block for block in blocks("python") if "learning_rates.png" in block]
    studies = {path.name.split("_")[0] for path in paths}
    assert studies == {"directions", "modes", "long-directions", "long-modes"}
    for study in studies:
        assert f"`{study}`" in README or f'"{study}_' in snippet

    rng = np.random.default_rng(0)
    best = {"bilstm_con": 0.01, "other": 0.003}
    seeds, epochs, of_report = range(1, 9), range(1, 61), {}
    for path, args in paths.items():
        index = pd.MultiIndex.from_product(
            [list(best), seeds, epochs], names=["model", "seed", "epoch"]
        )
        losses = pd.Series(rng.random(len(index)), index, name="loss")
        for name, rate in best.items():
            losses[name] += 5 * (args.learning_rate != rate)
            if args.learning_rate == rate and path.name.startswith("directions"):
                last = losses[name].to_numpy().reshape(8, 60)[4:, 10:]
                of_report[name] = last.mean(axis=1)
        losses.reset_index().to_csv(path, index=False)
    run_here(snippet)
    table = capsys.readouterr().out.splitlines()
    for name, mean in of_report.items():
        [row] = [row for row in table if row.startswith(name)]
        printed = [float(x) for x in row.split()[1:]]
        minus = mean - of_report["bilstm_con"]
        halves = [3.1824 * x.std(ddof=1) / 2 for x in (mean, minus)]
        expected = [best[name], mean.mean(), halves[0], minus.mean(), halves[1]]
        assert printed == pytest.approx(expected, rel=5e-3, abs=6e-4)
    assert (in_tmp / "learning_rates.png").stat().st_size > 10_000


def run_here(source, run_name="snippet"):
    """Runs the source in this process, and gives its names."""
    with open("snippet.py", "w", encoding="utf-8") as file:
        file.write(source)
    with matplotlib.rc_context():  # A style that it chooses is not for other tests.
        return runpy.run_path("snippet.py", run_name=run_name)


def test_snippet_of_padded_sequences_trains_saves_and_loads(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "pad_sequences" in block]
    names = run_here(snippet)
    assert "Epoch 5/5" in capsys.readouterr().out
    of_the_trained = names["model"].predict(names["X"][:3], verbose=0).argmax(-1)
    assert names["classes"].tolist() == of_the_trained.tolist()
    # It learns: of five classes, far more than a fifth are right.
    classes = names["model"].predict(names["X"], verbose=0).argmax(-1)
    assert np.mean(classes == names["y"]) > 0.6
    # More padding changes nothing.
    wider = np.pad(names["X"][:3], [(0, 0), (0, 7), (0, 0)], constant_values=-99)
    short = names["model"].predict(names["X"][:3], verbose=0)
    assert names["model"].predict(wider, verbose=0) == pytest.approx(short, abs=1e-5)


def table_of_changes():
    """The rows of "for ..., instead of ..., say ...", by what they are for."""
    section = README.split("\n| for | instead of | say |\n")[1].split("\n\n")[0]
    changes, what = {}, ""
    for row in section.splitlines()[1:]:
        name, old, new = [cell.strip() for cell in row.strip("|").split("|")]
        what = name or what  # A row without a name goes on with the one above.
        [old] = re.findall("`(.+)`", old)
        [code] = re.findall("`(.+)`", new)
        changes.setdefault(what, []).append(
            (old, f"{old}\n    {code}" if new.startswith("the same, then") else code)
        )
    return changes


CHANGES = table_of_changes()


@pytest.mark.parametrize("what", CHANGES)
def test_change_for_ones_own_data_trains(what, in_tmp):
    source = (ROOT / "bilstm_classify.py").read_text(encoding="utf-8")
    source = source.split("\ndef ")[1]
    for old, new in CHANGES[what]:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = run_here(f"import keras\n\nn_classes = 3\n\n\ndef {source}")
    model = names["get_bi_lstm_model"](6, n_units=4, n_features=2)
    model.run_eagerly = True  # so few updates are done sooner than compiled
    rng = np.random.default_rng(0)
    X = rng.random((32, 6, 2), dtype=np.float32)
    X[:16, 4:] = -99  # is padding, to a model with a mask
    y = rng.integers(3 if what == "several classes" else 2, size=(32, 6, 1))
    if what == "one label per sequence":
        y = y[:, 0]
    loss = model.fit(X, y, verbose=0).history["loss"][0]
    yhat = model.predict(X, verbose=0)
    assert np.isfinite(loss)
    n_outputs = 3 if what == "several classes" else 1
    assert yhat.shape == (*y.shape[:-1], n_outputs)
    kinds = {type(layer) for layer in model.layers}
    assert (keras.layers.Masking in kinds) == (what == "sequences of different lengths")
    bidirectional = [
        x for x in model.layers if isinstance(x, keras.layers.Bidirectional)
    ]
    assert len(bidirectional) == (2 if what == "two layers" else 1)
    is_gru = isinstance(bidirectional[0].forward_layer, keras.layers.GRU)
    assert is_gru == (what == "GRU")
    if what == "several classes":
        assert yhat.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    if what == "a number":  # not squeezed into (0, 1)
        model.layers[-1].set_weights([np.zeros((8, 1)), np.array([7.0])])
        assert model.predict(X, verbose=0) == pytest.approx(7)
    if what == "sequences of different lengths":
        y_other = y.copy()
        y_other[:16, 4:] = 1 - y_other[:16, 4:]  # The loss leaves out padded labels.
        expected = model.evaluate(X, y, verbose=0)[0]
        assert model.evaluate(X, y_other, verbose=0)[0] == pytest.approx(expected)


def test_snippet_compares_models_of_ones_own(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "study.csv" in block]
    assert "range(10)" in snippet
    names = run_here(snippet.replace("range(10)", "range(2)"))
    scores = pd.read_csv("study.csv")
    assert len(scores) == 2 * 2
    # The models of the last seed score the held-out rows as in the file.
    X, y = names["X_new"], names["y_new"]
    assert len(X) == 100
    for name in ("gru", "lstm"):
        model = names["models"][name]
        p = np.where(y == 1, yhat := model.predict(X, verbose=0), 1 - yhat)
        [loss] = scores.query("model == @name and seed == 1")["loss"]
        assert loss == pytest.approx(-np.log(p).mean(), abs=1e-4)
    # Started again with the remaining seeds, it goes on in the same file.
    run_here(snippet.replace("range(10)", "range(2, 3)"))
    assert pd.read_csv("study.csv").groupby("seed").size().to_dict() == {
        0: 2,
        1: 2,
        2: 2,
    }
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[0] for row in table] == ["gru", "lstm"]


def test_benchmark_measures(in_tmp):
    source = (ROOT / "tests/benchmark.py").read_text(encoding="utf-8")
    for number, smaller in [
        (', "BiLSTM": get_bi_lstm_model', ""),
        ("get_sequences(50,", "get_sequences(3,"),
        ("get_sequences(2000,", "get_sequences(5,"),
        ("4000 // timesteps", "5"),
    ]:
        assert number in source
        source = source.replace(number, smaller)
    names = run_here(source)
    table = names["compare_loops"]()
    assert table["LSTM times faster"].iloc[0] == "1" and len(table) == 4
    timesteps, units, ms, _, gigabytes = names["measure_size"](4, 2)
    assert (timesteps, units) == (4, 2) and ms > 0 and 0.1 < gigabytes < 8


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [t for t in targets if "://" not in t and not t.startswith("#")]
    assert len(local) >= 5
    for target in local:
        assert (ROOT / target).is_file(), target
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert {t[1:] for t in targets if t.startswith("#")} <= anchors
    pictures = list((ROOT / ".github/images").iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert {f".github/images/{picture.name}" for picture in pictures} == set(local)


def test_functions_in_the_list_exist_and_call_what_is_said():
    section = README.split("\n| function | in | it calls |\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split("|") for row in section.splitlines()[1:]]
    assert len(rows) >= 5
    for names, where, calls in rows:
        [file] = re.findall(r"(\w+)\.py", where)
        module = importlib.import_module(file)
        for name in re.findall(r"\w+", names):
            used = set(getattr(module, name).__code__.co_names)
            functions = {
                f for f in used if hasattr(getattr(module, f, None), "__code__")
            }
            assert functions == set(re.findall(r"\w+", calls))
