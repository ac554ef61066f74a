"""Everything that the README shows runs, exists or holds."""

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


IN_BLOCKS = [line for block in blocks("bash") for line in block.splitlines()]
IN_TABLES = re.findall(r"`(python \w+\.py [^`]*)`", README)
OF_A_SCRIPT = [c for c in IN_BLOCKS + IN_TABLES if re.match(r"python \w+\.py", c)]
LOOPS = [line for line in IN_BLOCKS if line.startswith("for ")]


def shorten(command):
    """The command with smaller numbers, and those that are defaults written out."""
    script = re.search(r"python (\w+)\.py", command)[1]
    short = {"--epochs": 3}
    if script in COMPARISONS:
        short["--repeats"] = 2
    for option, number in short.items() if script != "sequence" else ():
        command = re.sub(rf" {option} \d+", "", command)
        command = command.replace(f"{script}.py", f"{script}.py {option} {number}")
    return command.replace("seq 20", "seq 1").replace("50 * TASK", "2 * TASK")


@pytest.mark.parametrize("command", dict.fromkeys(map(shorten, OF_A_SCRIPT)))
def test_command_runs(command, in_tmp, capsys):
    _, script, *args = shlex.split(command)
    no_jit = ["--no-jit"] if script[:-3] in COMPARISONS else []
    assert not importlib.import_module(script[:-3]).main(args + no_jit)
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with the scripts."""
    folder = tmp_path_factory.mktemp("copy")
    for name in FILES:
        shutil.copy(ROOT / f"{name}.py", folder)
    return folder


def run_in(folder, *command):
    """Runs a command in the folder, where `python` is this Python."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg"}
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_loops_run_and_the_parts_of_many_machines_join(copy, monkeypatch, capsys):
    accuracy, parts = LOOPS
    [row] = run_in(copy, "bash", "-c", shorten(accuracy)).splitlines()
    assert 0 < float(row.split()[1]) < 1
    monkeypatch.chdir(copy)
    # Bash fills in the numbers, and the commands run in this process.
    echoed = run_in(copy, "bash", "-c", shorten(parts).replace("python ", "echo "))
    for command in echoed.splitlines():
        script, *args = command.split()
        main = importlib.import_module(script.removesuffix(".py")).main
        assert main([*args, "--no-jit"]) == 0
    [join] = [block for block in blocks("python") if "part*.csv" in block]
    capsys.readouterr()
    names = run_here(join)
    assert pd.concat(names["parts"])["seed"].unique().tolist() == [0, 1, 2, 3]
    assert "bilstm_con" in capsys.readouterr().out


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
