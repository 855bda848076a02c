"""The docs site: what its generated references hold, and that paths which the guides name exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import quantkit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """Return the module that writes pages when the site is built."""
    pytest.importorskip("mkdocs", reason="needs quantkit[docs]")
    spec = importlib.util.spec_from_file_location("quantkit_docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cli_reference_lists_every_command_and_option(hooks: ModuleType) -> None:
    text = hooks.cli_reference()
    commands = hooks.commands()
    assert {"quantkit compare", "quantkit calib-set build", "quantkit vamc check"} <= set(commands)
    sections = dict(re.findall(r"^## (quantkit.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(commands)
    for name, command in commands.items():
        for parameter in command.params:
            if parameter.name != "help" and not getattr(parameter, "hidden", False):
                spelling = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
                assert (spelling or parameter.name.upper()).strip("[]") in sections[name], f"{name}: {parameter.name}"


def test_cli_reference_states_defaults_and_repeatable_options(hooks: ModuleType) -> None:
    text = hooks.cli_reference()
    assert "| `--drift-images` `INT` | Number of images to measure drift on; 0 for none. (default `32`) |" in text
    assert re.search(r"`--fail-if` `CONDITION` \| .*may be repeated", text)


def test_api_reference_lists_every_public_name_once(hooks: ModuleType) -> None:
    listed = re.findall(r"heading: quantkit\.(\w+)", hooks.api_reference())
    assert sorted(listed) == sorted(set(quantkit.__all__) - {"__version__"})


def test_docs_site_loads_nothing_from_elsewhere() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in config
    assert "http" not in config
    for image in (ROOT / "docs" / "img").iterdir():
        assert not re.findall(r"href=.http|src=|@import|url\(.http", image.read_text())


def test_contributing_names_files_that_exist() -> None:
    named = set(re.findall(r"`((?:quantkit|tests|docs|benchmarks)/[\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 20
    if not (ROOT / "quantkit" / "data" / "sources").is_dir():
        named = {path for path in named if "data/sources" not in path and path != "docs/sources.md"}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_docs_use_the_fields_terms() -> None:
    private = re.compile(
        r"\b(foretell|foretold|foreseen|outlie[sd]?|outlying|farness|mend(ed|s|ing)?|judg(e|es|ed|ing))\b", re.I
    )
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found = {page.name: match.group() for page in pages if (match := private.search(page.read_text()))}
    assert found == {}
