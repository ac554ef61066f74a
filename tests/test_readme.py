"""Everything that the README shows runs, exists or holds."""

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
OF_A_SCRIPT = [line for line in COMMANDS if re.match(r"python \w+\.py", line)]
LOOPS = [line for line in COMMANDS if line.startswith("for ")]


def shorten(command):
    """The command with smaller numbers, and those that are defaults written out."""
    script = re.search(r"python (\w+)\.py", command)[1]
    short = {"--epochs": 3}
    if script in COMPARISONS:
        short["--repeats"] = 2
    for option, number in short.items() if script != "sequence" else ():
        command = re.sub(rf" {option} \d+", "", command)
        command = command.replace(f"{script}.py", f"{script}.py {option} {number}")
    return command.replace("seq 0 19", "seq 0 1").replace("50 * TASK", "2 * TASK")


@pytest.mark.parametrize("command", dict.fromkeys(map(shorten, OF_A_SCRIPT)))
def test_command_runs(command, in_tmp, capsys):
    (in_tmp / ".github/images").mkdir(parents=True)
    _, script, *args = shlex.split(command)
    no_jit = ["--no-jit"] if script[:-3] in COMPARISONS else []
    assert not importlib.import_module(script[:-3]).main(args + no_jit)
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with the scripts, in which the README's loops have been run."""
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
    *rows, last = run_in(copy, "bash", "-c", shorten(accuracy)).splitlines()
    scores = [float(row.split()[1]) for row in rows]
    mean, _, half = last.split()
    assert len(scores) == 2 and float(mean) == pytest.approx(sum(scores) / 2, abs=1e-5)
    spread = 2.093 * abs(scores[0] - scores[1]) / 2
    assert float(half) == pytest.approx(spread, abs=1e-5)
    parts = shorten(parts).replace(".py ", ".py --no-jit ")
    run_in(copy, "bash", "-c", parts)
    [join] = [block for block in blocks("python") if "part*.csv" in block]
    monkeypatch.chdir(copy)
    run_here(join)
    printed = capsys.readouterr().out
    assert "3 of 3 epochs, 4 repeats" in printed and "bilstm_con" in printed


def run_here(source, run_name="snippet"):
    """Runs the source in this process, and gives its names."""
    with open("snippet.py", "w", encoding="utf-8") as file:
        file.write(source)
    return runpy.run_path("snippet.py", run_name=run_name)


def test_snippet_labels_values_as_it_says(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "get_labels" in block]
    run_here(snippet)
    assert capsys.readouterr().out.strip() in snippet.split("# ")[1]


def test_snippet_trains_saves_and_loads(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "model.save" in block]
    names = run_here(snippet)
    assert "Epoch 5/5" in capsys.readouterr().out
    of_the_trained = names["model"].predict(names["X"][:1], verbose=0)
    assert names["yhat"].shape == (1, 25, 1)
    assert names["yhat"] == pytest.approx(of_the_trained, abs=1e-6)


def test_snippet_trains_compiled(in_tmp, capsys):
    [snippet] = [block for block in blocks("python") if "jit_compile" in block]
    run_here(snippet)
    assert float(capsys.readouterr().out) < 0.2387  # better than the position


def test_snippet_for_several_devices_uses_two(copy):
    [snippet] = [block for block in blocks("python") if "Mirrored" in block]
    two_devices = (
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "half = tf.config.LogicalDeviceConfiguration()\n"
        "tf.config.set_logical_device_configuration(cpu, [half, half])\n"
    )
    report = "\nprint('devices:', strategy.num_replicas_in_sync)"
    smaller = snippet.replace("6400", "256").replace("n_units=200", "n_units=4")
    printed = run_in(copy, sys.executable, "-c", two_devices + smaller + report)
    assert "Epoch 2/2" in printed and "devices: 2" in printed


def test_snippets_are_all_tested():
    assert len(blocks("python")) == 5 and len(LOOPS) == 2
    others = [c for c in COMMANDS if c not in OF_A_SCRIPT + LOOPS]
    assert [c for c in others if "pip install" not in c and "uv run" not in c] == [
        "python tests/benchmark.py"
    ]


def test_benchmark_prints_its_tables(in_tmp, capsys):
    source = (ROOT / "tests/benchmark.py").read_text(encoding="utf-8")
    for number, smaller in [
        ("(10, 100, 1000)", "(4,)"),
        ("(20, 200)", "(2,)"),
        ('    "BiLSTM": compare_directions.get_bi_lstm_model,\n', ""),
        ("get_sequences(100,", "get_sequences(3,"),
        ("get_sequences(2000,", "get_sequences(5,"),
    ]:
        assert number in source
        source = source.replace(number, smaller)
    run_here(source, run_name="__main__")
    printed = capsys.readouterr().out
    assert "comparisons: compiled by XLA" in printed and "s to compile" in printed


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 4
    for target in local:
        assert (ROOT / target).is_file(), target
    pictures = list((ROOT / ".github/images").iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert {f".github/images/{picture.name}" for picture in pictures} == set(local)


def test_options_are_those_of_help(capsys):
    table = re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE)
    used = {o for c in OF_A_SCRIPT + LOOPS for o in re.findall(r"--[a-z][a-z-]+", c)}
    exist = set()
    for name in FILES:
        with pytest.raises(SystemExit):
            importlib.import_module(name).main(["--help"])
        exist |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert sorted(table) == sorted(exist) and used <= exist


def test_functions_in_the_list_exist():
    section = README.split("\n## Copy it")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[\w`, ]+) \| ([^|]+) \|", section, re.MULTILINE)
    assert len(rows) > 10
    groups = {
        "the classifiers": CLASSIFIERS, "the comparisons": COMPARISONS, "all": FILES
    }  # fmt: skip
    for names, where in rows:
        where = where.strip().strip("`")
        for file in groups.get(where, [where.removesuffix(".py")]):
            for name in re.findall(r"\w+", names):
                assert callable(getattr(importlib.import_module(file), name))
    listed = {name for names, _ in rows for name in re.findall(r"\w+", names)}
    of_the_command_line = {"whole_number", "writable_file", "figure_file", "report"}
    of_the_command_line |= {"get_default_plot", "get_parser", "get_comparison_args"}
    of_the_command_line |= {"show_or_save", "main"}
    for name in FILES:
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        defined = set(re.findall(r"^def (\w+)", source, re.MULTILINE))
        assert defined - of_the_command_line <= listed
