"""The scripts repeat their functions, so that each can be copied alone. What repeats is
the same to the letter, and each function runs lifted out of its script."""

import ast
import importlib
import importlib.util
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT
from matplotlib.figure import Figure

import lstm_classify
import sequence

FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def functions(name):
    """Dict from the name of each function in a file to its source."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    return {
        node.name: "".join(
            f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list
        )
        + ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def test_functions_in_several_scripts_are_identical():
    sources, files = defaultdict(set), defaultdict(list)
    for name in FILES:
        for function, source in functions(name).items():
            sources[function].add(source)
            files[function].append(name)
    differ = {function for function, texts in sources.items() if len(texts) > 1}
    assert differ == {"main", "parse_args"}  # Options and models are each script's own.
    for twins in (CLASSIFIERS, COMPARISONS):
        assert len({functions(name)["parse_args"] for name in twins}) == 1
    assert len(files["get_lstm_model"]) == 2 and len(files["get_bi_lstm_model"]) == 3


def test_classifiers_differ_in_the_model_and_its_name_alone():
    lstm, bilstm = (functions(name)["main"] for name in CLASSIFIERS)
    assert bilstm.replace("get_bi_lstm", "get_lstm").replace("BiLSTM", "LSTM") == lstm


def test_scripts_import_sequence_and_no_other_script():
    for name in FILES:
        tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
        imported = {
            module
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for module in [getattr(node, "module", None), *(a.name for a in node.names)]
        }
        assert imported & set(FILES) == (set() if name == "sequence" else {"sequence"})


def lift(name, function, folder, imports=None):
    """Writes a function to a file of its own, with nothing but these imports, or else
    its script's, and the functions that it calls, and imports it."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    imports = imports or [
        text
        for node in ast.parse(source).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and not (text := ast.get_source_segment(source, node)).startswith("from seq")
    ]
    known = functions(name)
    needed, waiting = {}, [function]
    while waiting:
        current = waiting.pop()
        needed[current] = known[current]
        used = {n.id for n in ast.walk(ast.parse(known[current])) if hasattr(n, "id")}
        waiting += [f for f in used if f in known and f not in needed]
    path = folder / f"lifted_{name}_{function}.py"
    path.write_text("\n".join([*imports, *needed.values()]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


X, Y = sequence.get_sequences(6, 4, rng=0)
INDEX = pd.MultiIndex.from_product([[1, 2], [1, 2]], names=["seed", "epoch"])
RESULTS = pd.DataFrame({"mine": [4, 3, 2, 1], "another": 2}, INDEX)


def small_model():
    return lstm_classify.get_lstm_model(4, n_units=2)


def axes():
    return Figure().subplots()


def lift_ctrl_c_stops(f):
    with f(small_model()):
        pass


def lift_ctrl_c_waits(f):
    with f():
        pass


# How each function that a reader may copy is called.
CALLS = {
    "ctrl_c_stops": lift_ctrl_c_stops,
    "ctrl_c_waits": lift_ctrl_c_waits,
    "get_bar": lambda f: f(2).on_epoch_end(1, {"loss": 0.5}),
    "get_labels": lambda f: f(X),
    "get_sequence": lambda f: f(4),
    "get_sequences": lambda f: f(2, 4),
    "plot_results": lambda f: f(axes(), RESULTS),
    "plot_sequence": lambda f: f(axes(), axes(), *[X[0, :, 0]] * 3, 1),
    "plot_training": lambda f: f(axes(), [0.7, 0.6], 0.3),
    "position_baseline": lambda f: f(4),
    "summarize": lambda f: f(RESULTS),
    "train_model": lambda f: f(small_model(), (X[None], Y[None])),
    "train_repeats": lambda f: list(
        f({"a": small_model}, lambda seed: (X, Y), [0, 1], batch_size=2, jit=False)
    ),
}
BUILDERS = {"get_lstm_model", "get_bi_lstm_model"}


@pytest.mark.parametrize("name", FILES)
def test_functions_run_lifted_out(name, in_tmp):
    for function in functions(name).keys() - BUILDERS - {"main", "parse_args"}:
        CALLS[function](getattr(lift(name, function, in_tmp), function))


@pytest.mark.parametrize("name", [*CLASSIFIERS, "compare_directions"])
def test_builders_need_keras_alone(name, in_tmp):
    for function in functions(name).keys() & BUILDERS:
        module = lift(name, function, in_tmp, imports=["import keras"])
        assert [f for f in vars(module) if f.startswith("get_")] == [function]
        model = getattr(module, function)(4, n_units=2, n_features=3)
        assert model(np.ones((2, 4, 3))).shape == (2, 4, 1)
