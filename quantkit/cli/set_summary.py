"""The summary of a calibration set that is built, drawn, checked or used."""

from typing import TYPE_CHECKING

from quantkit.cli.show import print_lines, spread
from quantkit.cli.terminal import console, session

if TYPE_CHECKING:
    from quantkit.data.calibration_set import CalibrationSet, LeftOut

_SHOWN = 20


def set_line(chosen: "CalibrationSet") -> str:
    """Return the size and the classes of a set, with the source of its labels."""
    counts = chosen.per_class.values()
    labels = f"{len(counts)} classes, {spread(counts)} each; labels: {chosen.source}" if counts else "no labels"
    return f"{len(chosen)} images: {labels}; seed {chosen.seed}"


def print_set(chosen: "CalibrationSet") -> None:
    """Print a set with its digest, its remarks and the images that were left out; they are a result event, too."""
    session.event(
        "result",
        result={
            "images": len(chosen),
            "classes": len(chosen.per_class),
            "labels": chosen.source,
            "seed": chosen.seed,
            "digest": chosen.digest if chosen.is_rebuilt else None,
            "left_out": [{"image": one.name, "why": one.why} for one in chosen.left_out],
            "remarks": list(chosen.remarks),
        },
    )
    lines = [set_line(chosen)]
    lines.append(f"digest {chosen.digest}" if chosen.is_rebuilt else "no digests yet: selected from labels alone")
    lines.extend(f"note: {remark}" for remark in chosen.remarks)
    print_lines(*lines)
    print_left_out("left out", chosen.left_out)


def print_left_out(what: str, items: "tuple[LeftOut, ...]") -> None:
    """Print images that are left out or faulty, with the reasons; many are cut short."""
    for item in items[:_SHOWN]:
        print_lines(f"{what}: {item.name}: {item.why}")
    if len(items) > _SHOWN:
        console.print(f"... and {len(items) - _SHOWN} more")
