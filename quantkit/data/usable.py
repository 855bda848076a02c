"""A source without images that cannot be decoded."""

from dataclasses import replace

from quantkit.data.examine import examine
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike, open_source
from quantkit.errors import CalibrationSetError, first_of


def usable_images(images: ImagesLike, workers: int | None = None) -> ImageSource:
    """Open a source, skipping damaged parts and images that cannot be decoded.

    Every image is decoded once. Skipped parts are listed in ``warnings``.

    Args:
        images: see `quantkit.data.sources.open.open_source`.
        workers: number of threads that decode.

    Raises:
        CalibrationSetError: there is no such source, or nothing in it can be used.
    """
    source = open_source(images, skip_damaged=True)
    faults = [examined.fault for examined in map_in_order(examine, source.items, workers)]
    broken = [f"{item.where}: {fault}" for item, fault in zip(source.items, faults, strict=True) if fault]
    if len(broken) == len(source):
        raise CalibrationSetError(f"none of its {len(source)} images can be decoded ({broken[0]})", where=source.root)
    if not broken:
        return source
    warning = f"left out {len(broken)} images that cannot be decoded: {first_of(broken, 3, '; ')}"
    kept = source.only([position for position, fault in enumerate(faults) if not fault])
    return replace(kept, warnings=(*source.warnings, warning))
