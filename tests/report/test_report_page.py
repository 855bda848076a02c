"""The report in a real browser: no error, no request, and what is chosen is drawn."""

import json
from dataclasses import replace

import chromium_page
import pytest

from quantkit.report.page import write_report


@pytest.fixture(scope="module")
def browser():
    program = chromium_page.find_chromium()
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    browser = chromium_page.Browser(program)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, report_data, other_reports):
    folder = tmp_path_factory.mktemp("reports")
    for name, data in {"full": report_data, **other_reports}.items():
        write_report(data, folder / f"{name}.html")
    bare = replace(
        report_data, tensors=(), images=(), confusions=(), coverage=(), tunings=(), sensitivities=(), verdicts=(),
        choices=(), convergence=(), provenance=(), class_names=(),
    )  # fmt: skip
    write_report(bare, folder / "bare.html")
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["full", "pair", "unlabelled", "hostile", "bare"])
def test_page_any_width_has_no_error_request_or_sideways_scrolling(browser, pages, name, width, dark):
    page = browser.open(pages / f"{name}.html", width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('trouble').hidden")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    empty = page.evaluate("[...document.querySelectorAll('.chart')].filter((c) => !c.firstChild).map((c) => c.id)")
    assert empty == []
    assert page.troubles == []


def drawn(page):
    """Name of the tensor whose histogram is on the page, and the number of steps in its outline."""
    label = page.evaluate("document.querySelector('#histogram-chart svg').getAttribute('aria-label')")
    outline = page.evaluate("document.querySelector('#histogram-chart .bars').getAttribute('d')")
    return label.split(": ")[0], outline.count("H")


@pytest.fixture
def page(browser, pages):
    return browser.open(pages / "full.html")


def test_page_draws_worst_layer_first(page, report_data):
    name, steps = drawn(page)
    assert name == page.evaluate("document.querySelector('.losses button').textContent")
    assert steps == 240
    assert page.evaluate("location.hash") == ""


def test_page_choosing_from_list_draws_tensor(page, report_data):
    page.evaluate("(() => { const s = document.getElementById('choose'); s.value = '20';"
                  " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    name, steps = drawn(page)
    assert (name, steps) == (report_data.tensors[20].name, 240)
    methods = page.evaluate("[...document.querySelectorAll('#histogram-chart text.label')].map((t) => t.textContent)")
    assert methods == ["minmax", "percentile (int8-percentile)", "kl", "mse"]
    assert report_data.tensors[20].layer in page.evaluate("document.getElementById('facts').textContent")
    assert page.evaluate("document.querySelector('tr.chosen button').textContent") == name
    assert name in page.evaluate("document.getElementById('chosen').textContent")
    page.click("#next")
    assert drawn(page)[0] == report_data.tensors[21].name


def test_page_click_in_drift_chart_chooses_tensor(page, report_data):
    page.click("#drift-chart .target", along=(30 + 0.5) / len(report_data.tensors))
    assert drawn(page)[0] == report_data.tensors[30].name


def test_page_keyboard_steps_through_drift_chart(page, report_data):
    page.evaluate("document.getElementById('drift-chart').focus()")
    page.press("Home")
    page.press("ArrowRight")
    page.press("PageUp")
    assert drawn(page)[0] == report_data.tensors[11].name
    page.press("End")
    page.press("ArrowRight")
    assert drawn(page)[0] == report_data.tensors[-1].name
    assert page.evaluate("document.activeElement.id") == "drift-chart"
    spoken = page.evaluate("document.getElementById('drift-chart').getAttribute('aria-valuetext')")
    assert spoken.startswith(report_data.tensors[-1].name)


def test_page_tensor_button_in_table_draws_tensor(page, report_data):
    page.click("#convergence button.tensor")
    assert drawn(page)[0] == report_data.tensors[9].name


def test_page_address_carries_tensor(browser, pages, report_data):
    name = report_data.tensors[5].name
    page = browser.open(pages / "full.html", fragment=f"#tensor={name}")
    assert drawn(page)[0] == name


def test_page_narrow_view_is_other_histogram(page):
    outline = "document.querySelector('#histogram-chart .bars').getAttribute('d')"
    before = page.evaluate(outline)
    page.evaluate("[...document.querySelectorAll('#views input')].at(-1).click()")
    assert page.evaluate(outline) != before


def test_page_table_of_tensors_sorts_by_number(page, report_data):
    page.evaluate("document.querySelector('#drift details').open = true")
    page.evaluate("document.querySelectorAll('#drift th button')[2].click()")
    cells = page.evaluate("[...document.querySelectorAll('#drift tbody tr')].map((r) => r.cells[2].textContent)")
    numbers = [float(cell.replace("−", "-")) for cell in cells]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(report_data.tensors)
    page.evaluate("document.querySelectorAll('#drift th button')[2].click()")
    assert page.evaluate("document.querySelector('#drift tbody').rows[0].cells[2].textContent") == cells[-1]


def test_page_flipped_images_are_few_at_first_and_filtered_by_kind(page, report_data):
    shown = "[...document.querySelectorAll('#cards > li')].filter((c) => !c.hidden).map((c) => c.dataset.kinds)"
    assert len(page.evaluate(shown)) == 12
    page.click("#all-cards")
    assert len(page.evaluate(shown)) == len(report_data.images)
    page.click(".filter [data-kind=gained]")
    assert all("gained" in kinds.split(",") for kinds in page.evaluate(shown))
    page.evaluate("(() => { const s = document.getElementById('changed-in'); s.value = '1';"
                  " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert {kinds.split(",")[1] for kinds in page.evaluate(shown)} == {"gained"}
    # decode() waits for the picture, which a busy machine shows late.
    image = "document.querySelector('#cards > li:not([hidden]) img')"
    assert page.evaluate(f"{image}.decode().then(() => {image}.naturalWidth)") == 96


def test_page_names_from_files_stay_text(browser, pages):
    page = browser.open(pages / "hostile.html")
    assert page.evaluate("document.title").startswith("ResNet-50</script><script>")
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert "<img src=x" in page.evaluate("document.querySelector('h1').textContent")
    name, _ = drawn(page)
    assert name.endswith("onerror=alert(1)>")


def test_page_runs_no_foreign_script(page):
    page.evaluate("(() => { const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
                  " document.body.append(s); })()")  # fmt: skip
    assert page.evaluate("window.owned") is None
    assert any("Content Security Policy" in trouble for trouble in page.troubles)


def test_page_chart_that_fails_says_so(browser, pages, tmp_path):
    text = (pages / "full.html").read_text(encoding="utf-8")
    start = text.index('id="figures">') + len('id="figures">')
    figures = json.loads(text[start : text.index("</script>", start)])
    figures["charts"]["margins"]["series"] = [1]
    broken = tmp_path / "broken.html"
    broken.write_text(text[:start] + json.dumps(figures) + text[text.index("</script>", start) :], encoding="utf-8")
    page = browser.open(broken)
    assert page.evaluate("document.getElementById('trouble').textContent").startswith("A chart could not be drawn")
    assert page.evaluate("document.querySelector('#convergence-chart svg') !== null")
