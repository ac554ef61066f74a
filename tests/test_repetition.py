"""The scripts repeat their functions, so that each can be copied alone. What repeats is
the same to the letter, and each function runs lifted out of its script."""

import ast
import importlib.util
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

import sequence

FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def functions(name):
    """Dict from the name of each function in a file to its source."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            first = min(part.lineno for part in [node, *node.decorator_list])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def test_functions_in_several_scripts_are_identical():
    sources, files = defaultdict(set), defaultdict(list)
    for name in FILES:
        for function, source in functions(name).items():
            sources[function].add(source)
            files[function].append(name)
    differ = {function for function, texts in sources.items() if len(texts) > 1}
    # The classifiers train with fit, the comparisons with a compiled loop.
    assert differ == {"main", "train_model"}
    for pair in (CLASSIFIERS, COMPARISONS):
        assert len({functions(name)["train_model"] for name in pair}) == 1
    assert len(files["get_lstm_model"]) == 2 and len(files["get_bi_lstm_model"]) == 3


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


def lift(name, function, folder):
    """Writes a function to a file of its own, with nothing but its script's imports and
    the functions that it calls, and imports it."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    own = "from sequence import"
    kinds = (ast.Import, ast.ImportFrom, ast.Try)
    imports = [
        text
        for node in ast.parse(source).body
        if isinstance(node, kinds)
        and not (text := ast.get_source_segment(source, node)).startswith(own)
    ]
    known = {**functions("sequence"), **functions(name)}
    needed, waiting = {}, [function]
    while waiting:
        current = waiting.pop()
        needed[current] = known[current]
        used = {n.id for n in ast.walk(ast.parse(known[current])) if hasattr(n, "id")}
        waiting += [f for f in used if f in known and f not in needed]
    if name != "sequence":  # what sequence.py's functions need
        imports.append("import numpy as np")
    path = folder / f"lifted_{name}_{function}.py"
    path.write_text("\n".join([*imports, *needed.values()]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


X, Y = sequence.get_sequences(6, 4, rng=0)
INDEX = pd.MultiIndex.from_product([range(2), range(1, 4)], names=["seed", "epoch"])
RESULTS = pd.DataFrame(np.eye(6)[:, :2], index=INDEX, columns=["lstm_forw", "mine"])


def small_model():
    import lstm_classify

    return lstm_classify.get_lstm_model(4, n_units=2)


def history():
    import lstm_classify

    return lstm_classify.train_model(small_model(), X, Y, verbose=0)


def scores():
    import lstm_classify

    return lstm_classify.evaluate_model(small_model(), X, Y, "mine")


def enter(context):
    with context:
        pass


def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


# How each function that a reader may copy is called.
CALLS = {
    "average_epochs": lambda f: f(RESULTS, 2),
    "check_counts": lambda f: f(n_units=3),
    "evaluate_model": lambda f: f(small_model(), X, Y, "mine"),
    "get_aligned_lstm_model": lambda f: f(4).predict(X, verbose=0),
    "get_bi_lstm_model": lambda f: f(4).predict(X, verbose=0),
    "get_labels": lambda f: f(X),
    "get_lstm_model": lambda f: f(4).predict(X, verbose=0),
    "get_sequence": lambda f: f(4),
    "get_sequences": lambda f: f(2, 4),
    "get_style": lambda f: f("lstm_forw"),
    "get_t_quantile": lambda f: f(5),
    "plot_classifier": lambda f: f(history(), scores(), X[0], Y[0], X[0]),
    "plot_results": lambda f: f(RESULTS, 0.2),
    "plot_sequence": lambda f: f(axes(), X[0, :, 0], Y[0, :, 0], X[0, :, 0]),
    "plot_training": lambda f: f(axes(), [0.7, 0.6], 0.2),
    "position_baseline": lambda f: f(4),
    "print_summary": lambda f: f(RESULTS, 0.2),
    "restart": lambda f: f(small_model(), small_model().get_weights(), []),
    "stop_at_ctrl_c": lambda f: enter(f(small_model())),
    "summarize": lambda f: f(RESULTS),
    "train_model": lambda f: f(small_model(), X, Y),
    "until_ctrl_c": lambda f: list(f([1, 2])),
    "train_repeats": lambda f: f({"a": small_model}, 3, 4, [0, 1], jit=False),
}
OF_THE_COMMAND_LINE = {"whole_number", "writable_file", "figure_file", "show_or_save"}
OF_THE_COMMAND_LINE |= {"get_default_plot", "get_parser", "get_comparison_args"}
OF_THE_COMMAND_LINE |= {"report", "main"}


@pytest.mark.parametrize("name", FILES)
def test_functions_run_lifted_out(name, in_tmp):
    for function in functions(name).keys() - OF_THE_COMMAND_LINE:
        CALLS[function](lift(name, function, in_tmp))
