"""Everything that the README shows runs, exists or holds."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

import compare_directions

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


IN_BLOCKS = [line for block in blocks("bash") for line in block.splitlines()]
IN_TABLES = re.findall(r"`(python \w+\.py [^`]*)`", README)
OF_A_SCRIPT = [c for c in IN_BLOCKS + IN_TABLES if re.match(r"python \w+\.py", c)]
LOOPS = [line for line in IN_BLOCKS if line.startswith("for ")]


def assert_is_accepted(command, folder):
    """Reads the options as the script does; other tests run what they say."""
    python, file, *args = shlex.split(command)
    assert python == "python" and (ROOT / file).is_file()
    if args:
        options = vars(importlib.import_module(file[:-3]).parse_args(args))
        names = {arg[2:].replace("-", "_") for arg in args if arg.startswith("--")}
        assert names <= set(options)  # none of them an abbreviation
    assert list(folder.iterdir()) == []


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


def test_loop_over_seeds_picks_the_accuracies(in_tmp, capsys):
    loop = LOOPS[0]
    echoed = loop.replace("python ", "echo python ").replace("| grep LSTM | sort", "")
    commands = run_bash(echoed, in_tmp).splitlines()
    for command in commands:
        assert_is_accepted(command, in_tmp)
    assert len(set(commands)) == len(commands) == 20
    importlib.import_module("lstm_classify").main(["--epochs", "3", "--verbose", "0"])
    (in_tmp / "printed").write_text(capsys.readouterr().out)
    rows = run_bash(f"python() {{ cat printed; }}; {loop}", in_tmp).splitlines()
    assert len(rows) == 20 and all(0 < float(row.split()[1]) < 1 for row in rows)


def test_parts_of_many_machines_join(in_tmp, capsys):
    commands = run_bash(LOOPS[1].replace("python ", "echo python "), in_tmp)
    paths = []
    for command in commands.splitlines():
        assert_is_accepted(command, in_tmp)
        args = compare_directions.parse_args(shlex.split(command)[2:])
        paths.append(args.csv)
        seeds = range(args.seed, args.seed + args.repeats)
    index = pd.MultiIndex.from_product(
        [["a", "b"], seeds, [1, 2]], names=["model", "seed", "epoch"]
    )
    losses = pd.DataFrame({"loss": range(len(index))}, index).reset_index()
    for i, path in enumerate(paths):
        losses.assign(seed=losses["seed"] + 100 * i).to_csv(path, index=False)
    [join] = [block for block in blocks("python") if "part*.csv" in block]
    names = run_here(join)
    assert pd.concat(names["parts"])["seed"].nunique() == len(paths) * len(seeds) > 20
    assert {"a", "b"} <= set(capsys.readouterr().out.split())


def run_here(source, run_name="snippet"):
    """Runs the source in this process, and gives its names."""
    with open("snippet.py", "w", encoding="utf-8") as file:
        file.write(source)
    return runpy.run_path("snippet.py", run_name=run_name)


def test_snippet_trains_saves_and_loads(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "model.save" in block]
    names = run_here(snippet)
    assert "Epoch 5/5" in capsys.readouterr().out
    of_the_trained = names["model"].predict(names["X"][:1], verbose=0)
    assert names["yhat"].shape == (1, 25, 1)
    assert names["yhat"] == pytest.approx(of_the_trained, abs=1e-6)


def test_snippet_compares_models_of_ones_own(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "study.csv" in block]
    assert "range(10)" in snippet
    run_here(snippet.replace("range(10)", "range(2)"))
    losses = pd.read_csv("study.csv")
    assert losses.groupby(["model", "seed"]).size().to_dict() == {
        (model, seed): 300 for model in ("gru", "lstm") for seed in (0, 1)
    }
    table = capsys.readouterr().out
    assert "gru" in table and "lstm" in table
    assert (in_tmp / "study.png").stat().st_size > 10_000


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
    assert len(local) >= 4
    for target in local:
        assert (ROOT / target).is_file(), target
    pictures = list((ROOT / ".github/images").iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert {f".github/images/{picture.name}" for picture in pictures} == set(local)


def test_functions_in_the_list_exist():
    section = README.split("\n## Copy it")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[\w`, ]+) \| ([^|]+) \|", section, re.MULTILINE)
    assert len(rows) >= 5
    groups = {"the classifiers": CLASSIFIERS, "the comparisons": COMPARISONS}
    for names, where in rows:
        where = where.strip().strip("`")
        for file in groups.get(where, [where.removesuffix(".py")]):
            for name in re.findall(r"\w+", names):
                assert callable(getattr(importlib.import_module(file), name))
