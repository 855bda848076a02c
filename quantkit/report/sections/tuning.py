"""Searches of `quantkit tune`: recipes, gain and time of each stage."""

from quantkit.report.data import ReportData, TuningLog, TuningStage
from quantkit.report.html import Html, element, fragment
from quantkit.report.layout import SPACE, Cell, Chart, Section, interval_row, muted, table
from quantkit.report.tables import ABSENT, decibels, duration, points, share


def tuning_section(data: ReportData) -> Section | None:
    """Return the stages of every search in the run; None without one."""
    if not data.tunings:
        return None
    charts = [chart for log in data.tunings if (chart := _chart(log)) is not None]
    return Section(
        id="tuning",
        heading="Tuning",
        content=fragment(
            *(_search(log, charts) for log in data.tunings),
            muted(
                "Each row is the best recipe of a stage: its scores are nearest to fp32 on the selection split of "
                "the calibration set; agreement and SQNR are those on these images. The best recipe of a stage that "
                "improves on the stages before it is evaluated on held-out images, which gives the difference in top-1."
            ),
        ),
        charts=charts,
    )


def _search(log: TuningLog, charts: list[Chart]) -> Html:
    headings = ["stage", "best recipe", "tried", "agreement %", "Δ agreement", "SQNR of the scores, dB"]
    headings += ["Δ top-1, points", "in float", "time, s"]
    rows, before = [], None
    for stage in log.stages:
        rows.append(_row(stage, before))
        before = stage.agreement if before is None else max(before, stage.agreement)
    total = sum(stage.seconds for stage in log.stages)
    tried = sum(stage.tried for stage in log.stages)
    chart = next((chart.figure for chart in charts if chart.name == _chart_name(log)), None)
    return element(
        "div",
        element("h3", f"{log.name}, target {log.target}"),
        element("p", f"{_sentences(log)} {tried} recipes were tried in {duration(total)}."),
        table(f"Stages of {log.name}", headings, rows, text_columns=2),
        chart,
        element("ul", *(element("li", note) for note in log.notes), class_="notes") if log.notes else None,
    )


def _sentences(log: TuningLog) -> str:
    return " ".join(f"{line[:1].upper()}{line[1:]}." for line in log.conclusion)


def _row(stage: TuningStage, before: float | None) -> list[object]:
    delta = ABSENT if stage.delta is None else Cell(points(stage.delta, stage.ci95), value=stage.delta)
    gained = ABSENT if before is None else points(100.0 * (stage.agreement - before))
    return [
        element("strong", f"{stage.stage} (kept)") if stage.kept else stage.stage,
        stage.recipe,
        f"{stage.tried}",
        f"{100.0 * stage.agreement:.2f}",
        gained,
        "∞" if stage.sqnr_db is None else decibels(stage.sqnr_db),
        delta,
        share(stage.float_macs, digits=1),
        f"{stage.seconds:.1f}",
    ]


def _chart(log: TuningLog) -> Chart | None:
    """Return the chart of top-1 of the best recipe of each stage on the held-out images."""
    rows = [
        interval_row(f"{stage.stage}: {stage.recipe}", stage.delta, stage.ci95)
        for stage in log.stages
        if stage.delta is not None and stage.ci95 is not None
    ]
    if not rows:
        return None
    images = max(stage.images for stage in log.stages)
    caption = f"Difference in top-1 to fp32 after each stage, with its 95{SPACE}% interval, {images:,} held-out images"
    return Chart(
        name=_chart_name(log),
        caption=caption,
        kind="intervals",
        values={"title": "top-1 minus that of fp32, points", "rows": rows},
    )


def _chart_name(log: TuningLog) -> str:
    return f"tuning-{log.target}"
