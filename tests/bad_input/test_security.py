"""What quantkit never does with what it is given: run it, unpickle it, import it, or talk to anyone about it."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from bad_input.bad_item import BadInput
from bad_input.corpus import CORPUS
from bad_input.doors import DOORS, FUZZED, input_folder, prepare
from models import tiny_model, write_images

import quantkit
from quantkit.errors import QuantkitError

PACKAGE = Path(quantkit.__file__).parent
# Modules that run or fetch what they are given.
REFUSED = frozenset(
    {
        *("pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"),
        *("code", "codeop", "runpy", "subprocess", "multiprocessing", "webbrowser"),
        *("socket", "ssl", "http", "urllib", "urllib3", "ftplib", "smtplib", "xmlrpc", "requests", "httpx", "aiohttp"),
    }
)
# The name of what a reader of others raises.
ALLOWED = {"pickle": ["UnpicklingError"]}
CALLS = frozenset({"eval", "exec", "compile", "__import__", "input"})


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every node of the package's source, with its place."""
    return [
        (f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_package_imports_no_module_that_runs_unpickles_or_fetches() -> None:
    found = []
    for where, node in nodes():
        if isinstance(node, ast.Import):
            found += [f"{where}: {alias.name}" for alias in node.names if alias.name.partition(".")[0] in REFUSED]
        if isinstance(node, ast.ImportFrom):
            module, names = node.module or "", [alias.name for alias in node.names]
            if module.partition(".")[0] in REFUSED and names != ALLOWED.get(module):
                found.append(f"{where}: {module}")
    assert found == []


def test_package_evaluates_nothing_and_uses_safe_loaders() -> None:
    found = []
    for where, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        name, options = called(node), {option.arg: ast.unparse(option.value) for option in node.keywords}
        if name in CALLS or name in ("os.system", "os.popen", "ctypes.CDLL"):
            found.append(f"{where}: {name}")
        if name.endswith("torch.load") and options.get("weights_only") != "True":
            found.append(f"{where}: {name} without weights_only=True")
        if options.get("allow_pickle", "False") != "False" or (name == "np.load" and "mmap_mode" in options):
            found.append(f"{where}: {name} with pickle")
        if name == "YAML" and options.get("typ") not in ("'safe'", "'rt'"):
            found.append(f"{where}: {name} that may construct objects")
    assert found == []


def test_package_imports_modules_by_own_names_only() -> None:
    """``importlib.import_module`` is given constants, or names from this package's own tables."""
    users = {
        where.partition(":")[0]
        for where, node in nodes()
        if isinstance(node, ast.Call)
        if called(node).endswith("import_module")
    }
    cluster = {"engine/cluster/session.py", "engine/cluster/worker.py"}
    package = {"__init__.py", "cli/commands.py", "engine/device.py", "export/network.py", "records.py"}
    assert users <= {*package, *cluster, "workflows/backends.py"}


_WATCHED = """
import sys

def watch(event, _):
    if event.startswith(("socket.", "urllib.", "ftplib.", "http.", "smtplib.")) and event != "socket.gethostname":
        raise SystemExit(f"reached for the network: {event}")
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        raise SystemExit(f"ran another program: {event}")

sys.addaudithook(watch)
from quantkit.cli.main import main
for line in sys.argv[1:]:
    sys.argv = line.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
_CHAIN = (
    "quantkit calib-set build --images images --count 16 --out calib.csv",
    "quantkit calibrate --model tiny.onnx --set calib.csv --preset pipeline.yaml --run run",
    "quantkit quantize --run run --method mse",
    "quantkit sensitivity run --count 4",
    "quantkit tune run --images images --max-drop 50",
    "quantkit compare fp32 int8 int8-mse --run run --images images --html report.html",
)


def test_whole_chain_opens_no_socket(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=8)
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    command = [sys.executable, "-c", _WATCHED, *_CHAIN]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("item", [item for item in CORPUS if "pickle" in item.name], ids=lambda item: item.name)
def test_pickled_input_is_refused_without_running(
    item: BadInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QuantkitError, match=r"damaged|of another format|is not a prediction file"):
        DOORS[item.kind](item.write(input_folder(item.kind, tmp_path)))
    assert not (tmp_path / "trapped").exists()


def test_build_file_custom_function_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_trap.py").write_text("open('trapped', 'w')\ndef run(x): return x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "build.yaml"
    path.write_text(
        "name: a\nfrontend: {type: onnx, checkpoint: a.onnx, shape: {input: [1, 3, 8, 8]}}\n"
        "backend: {type: tvm_vacc, dtype: int8}\n"
        "dataset:\n  path: p\n  process_ops:\n"
        "  - {type: CustomFunc, module: house_trap, function: run, func: run, module_path: house_trap.py}\n"
    )
    FUZZED["build file"](path)
    assert "house_trap" not in sys.modules
    assert not (tmp_path / "trapped").exists()
