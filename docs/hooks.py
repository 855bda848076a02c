"""Pages of the site that are written from the program when the site is built, so that they are never stale."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import quantkit  # noqa: E402
from quantkit.cli.app import app  # noqa: E402
from quantkit.cli.commands import COMMAND_MODULES  # noqa: E402

GUIDES = "How-to guides"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the navigation does not name to the guides, so that a new page is never left out."""
    named = set(_strings(config.nav))
    guides = next(section[GUIDES] for section in config.nav if GUIDES in section)
    guides.extend(path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference of the command line, the reference of Python, and the pages kept at the top of the checkout."""
    pages = {"cli.md": cli_reference(), "api.md": api_reference()}
    pages |= {f"{name.lower()}.md": _from_top(name) for name in ("CONTRIBUTING", "CHANGELOG")}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def _from_top(name: str) -> str:
    """Return a page of the checkout's top folder with its links as they are from within ``docs/``."""
    return (
        (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](").replace("(README.md)", "(index.md)")
    )


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(branch)


def commands() -> dict[str, Any]:
    """Return every command that can be run, by its full name, in the order of ``--help``."""
    for module in COMMAND_MODULES:
        importlib.import_module(module)
    return dict(_below(typer.main.get_command(app), "quantkit"))


def _below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield name, command
    for child_name, child in children.items():
        yield from _below(child, f"{name} {child_name}")


def cli_reference() -> str:
    """Return the reference of all commands in Markdown."""
    lines = [
        "# Command line",
        "",
        "`python -m quantkit` is the same as `quantkit`. Bad input ends a command with one line and",
        "[an exit code](input.md#exit-codes). Options of every command: `--help`, and `--debug` for tracebacks.",
    ]
    for name, command in commands().items():
        lines += ["", f"## {name}", "", *_description(command), "", f"    {_usage(name, command)}", ""]
        lines += _table(command)
    return "\n".join(lines) + "\n"


def _description(command: Any) -> list[str]:
    return inspect.cleandoc(command.help or "").replace("``", "`").replace("\f", "").splitlines()


def _usage(name: str, command: Any) -> str:
    arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
    return " ".join([name, "[OPTIONS]", *arguments])


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = f"{name}..." if parameter.nargs != 1 else name
    return name if parameter.required else f"[{name.strip('[]')}]"


def _table(command: Any) -> list[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    groups: dict[str, list[Any]] = {}
    for one in shown:
        groups.setdefault(getattr(one, "rich_help_panel", None) or "", []).append(one)
    lines = []
    for title, parameters in groups.items():
        lines += [f"### {title}", ""] if title else []
        lines += ["| option | meaning |", "| --- | --- |", *map(_row, parameters), ""]
    return lines


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        spelling = f"`{_argument(parameter)}`"
    else:
        spelling = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag and not parameter.count:
            spelling += f" {_value_name(parameter)}"
    about = " ".join((parameter.help or "").split()).replace("|", "\\|").replace("``", "`")
    return f"| {spelling} | {about}{_facts(parameter)} |"


def _value_name(parameter: Any) -> str:
    if parameter.metavar:
        return f"`{parameter.metavar}`"
    annotation = parameter.type_descriptor.annotation
    choices = [str(getattr(one, "value", one)) for one in getattr(annotation, "__args__", ()) or _members(annotation)]
    if choices:
        return "\\|".join(f"`{one}`" for one in choices)
    return f"`{getattr(annotation, '__name__', str(annotation)).upper()}`"


def _members(annotation: Any) -> list[Any]:
    return list(getattr(annotation, "__members__", {}).values())


def _facts(parameter: Any) -> str:
    facts = ["required"] if parameter.required else []
    if getattr(parameter, "multiple", False):
        facts.append("may be repeated")
    default = parameter.default
    if default is not None and default != [] and not callable(default) and default is not False:
        facts.append(f"default `{_default_name(parameter, default)}`")
    return f" ({', '.join(facts)})" if facts else ""


def _default_name(parameter: Any, default: Any) -> str:
    if default is True:
        return str(parameter.opts[0])
    return os.fspath(default) if isinstance(default, os.PathLike) else str(getattr(default, "value", default))


def api_reference() -> str:
    """Return the reference of all public names, each described by its docstring."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Values": [], "Modules": []}
    for name in sorted(set(quantkit.__all__) - {"__version__"}, key=str.lower):
        value = getattr(quantkit, name)
        kinds[_kind(value)].append(name)
    lines = ["# Python", "", "Everything here is imported from `quantkit`; names are loaded when they are first used."]
    for kind, names in kinds.items():
        lines += ["", f"## {kind}"] if names else []
        for name in names:
            lines += ["", f"::: {_path(name)}", "    options:", f"      heading: quantkit.{name}"]
            lines += [f"      toc_label: {name}", "      heading_level: 3"]
    return "\n".join(lines) + "\n"


def _kind(value: Any) -> str:
    if inspect.ismodule(value):
        return "Modules"
    return "Classes" if inspect.isclass(value) else "Functions" if callable(value) else "Values"


def _path(name: str) -> str:
    """Return where a public name is defined."""
    value = getattr(quantkit, name)
    if inspect.ismodule(value):
        return value.__name__
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{quantkit._MODULE_OF[name]}.{name}"
