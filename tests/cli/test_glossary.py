"""Every head of a column, in tables of the command line and of the report, is explained in the glossary."""

import ast
import re
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from models import write_images
from rich.table import Table

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[str, str]]

# Together they print every table.
LINES = (
    "calibrate --images images --count 40",
    "quantize --method auto --out again.onnx",
    "quantize --method kl",
    "compare fp32 int8 --images images --latency --markdown table.md",
    "compare fp32 int8 --images images --html labelled.html --latency --fail-if bytes<1",
    "compare fp32 int8 --images images --breakdown",
    "sensitivity --html sensitivity.html",
    "sensitivity --by accuracy --images images --html accuracy.html",
    "tune --images images --max-drop 0 --min-agreement 100",
    "preprocess guess tiny.onnx --images images --limit 16 --preset pipeline.yaml",
    "preprocess guess tiny.onnx --images images --limit 16 --preset pipeline.yaml --unlabelled",
    "plan eval tiny.onnx --images images --preset pipeline.yaml",
    "stats show runs/tiny/statistics.safetensors",
    "stats diff runs/tiny/statistics.safetensors other.safetensors",
    "vamc advise --images images --skips 0",
    "report --images images --latency --html all.html",
)


def glossary() -> set[str]:
    """Return the heads that the glossary explains."""
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").partition("## Figures of tables")[2]
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    return {head for row in rows for head in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def heads_in_source() -> set[str]:
    """Return the heads of the report's tables, also of those that need data that small models do not give."""
    found: set[str] = set()
    for path in sorted((ROOT / "quantkit/report").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, ast.Assign | ast.AugAssign) and getattr(target, "id", "") in ("headings", "expected"):
                listed = node.value
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("table", "_markdown_table"):
                listed = ast.List([one for one in node.args if isinstance(one, ast.List | ast.Tuple)])
            else:
                continue
            texts = [one for one in ast.walk(listed) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            parts = {id(part) for one in ast.walk(listed) if isinstance(one, ast.JoinedStr) for part in ast.walk(one)}
            found |= {str(one.value) for one in texts if id(one) not in parts}
    return found


def without_unit(head: str) -> str:
    return re.sub(r"(, (points|dB|nats|ms|steps|s|1e-3|corrected)| %| dB)$", "", head) if head != "at 95 %" else head


def test_glossary_explains_every_column_of_tables(
    project: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: dict[str, str] = {}
    places: set[str] = set()
    add_column = Table.add_column

    def recorded(self: Table, header: str = "", *arguments: Any, **options: Any) -> None:
        code = sys._getframe(1).f_code
        place = Path((code if code.co_name != "plain_table" else sys._getframe(2).f_code).co_filename)
        places.add(place.name)
        heads.setdefault(str(header), place.name)
        add_column(self, header, *arguments, **options)

    monkeypatch.setattr(Table, "add_column", recorded)
    write_images(project / "images", per_class=16)
    (project / "quantkit.yaml").write_text("model: tiny.onnx\npreset: pipeline.yaml\n")
    for line in LINES:
        if line.startswith("stats diff"):
            command("calibrate", "--images", "images", "--count", "8", "--run", "other")
            (project / "other/statistics.safetensors").rename(project / "other.safetensors")
        command(*line.split())
    prints = re.compile(r"table\.add_column\(|= plain_table\(")
    printing = {path.name for path in (ROOT / "quantkit").rglob("*.py") if prints.search(path.read_text())}
    assert places == printing, "a line that prints the table is missing above"
    for path in project.glob("*.html"):
        for head in re.findall(r'<th[^>]*scope="col(?:group)?"[^>]*>(.*?)</th>', path.read_text(), re.DOTALL):
            heads.setdefault(unescape(re.sub("<.*?>", "", head)).strip(), path.name)
    assert len(heads_in_source()) > 30
    models = {"fp32", "int8", "int8-kl", "int8-tuned", "again"}
    words = {without_unit(one) for head in (*heads, *heads_in_source()) for one in head.split("\n")} - models - {""}
    missing = sorted(words - glossary())
    assert not missing, "; ".join(missing)
