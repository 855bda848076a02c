"""The notebooks run from end to end on the demo, use the public API only, and are committed without output."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import quantkit

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_TIMEOUT_S = 240


def code_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebooks_are_those_expected() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_drift_analysis", "02_choosing_a_method", "03_card_vs_simulation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    for cell in code_of(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_uses_public_names_only(path: Path) -> None:
    used = set()
    for cell in code_of(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("quantkit")
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("quantkit.") for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "quantkit":
                used.add(node.attr)
    assert used
    assert used <= set(quantkit.__all__)


def test_notebooks_run_and_draw(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "ipykernel"):
        pytest.importorskip(module, reason=f"needs {module}: pip install 'quantkit[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'quantkit[notebooks]'")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'quantkit[notebooks]'")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # without it jupyter warns on import
    monkeypatch.setenv("MPLCONFIGDIR", str(demo_folder / "matplotlib"))
    # One kernel for all of them, since its start and its imports take longer than most cells.
    together = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        together.cells.append(nbformat.v4.new_code_cell(f"print({path.stem!r})\n%reset -f"))
        together.cells += nbformat.read(path, as_version=4).cells
    resources = {"metadata": {"path": str(demo_folder.parent)}}
    nbclient.NotebookClient(together, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=resources).execute()
    for cell in together.cells:
        outputs = cell.get("outputs", [])
        figures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(figures) == ("plt.show()" in cell.source), cell.source
        assert [output.get("text") for output in outputs if output.get("name") == "stderr"] == []
    assert sum("plt.show()" in cell.source for cell in together.cells) >= len(NOTEBOOKS)
