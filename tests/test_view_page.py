"""The viewer's page in a real browser: headless Chromium, driven by playwright, offline."""

import os
import shutil

import pytest
from viewer import HOSTILE, make_evaluation, make_hostile_run, make_run, write_step

from tools.view.folder import load
from tools.view.page import render
from trainer.policy.pretrained import load_tokenizer

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: tests/requirements-browser.txt"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root may not have one
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser.new_context(viewport={"width": 1440, "height": 900})
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(HTML file) -> its page, ready. At the end: no complaint, and nothing was loaded."""
    opened, complaints, requests = [], [], []

    def visit(path, scheme="light"):
        page = browser.new_page()
        opened.append(page)
        page.emulate_media(color_scheme=scheme)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield visit
    for page in opened:
        page.close()
    assert complaints == []
    assert all(url.startswith("file:") for url in requests)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages that the tests share: one run, two runs, hostile text, an evaluation."""
    root = tmp_path_factory.mktemp("view")
    folders = {
        "run": [make_run(root / "first")],
        "two": [root / "first", make_run(root / "second", offset=1)],
        "hostile": [make_hostile_run(root / "hostile")],
        "evaluation": [make_evaluation(root / "evaluation")],
    }
    for name, own in folders.items():
        html = render([load(folder) for folder in own])
        (root / f"{name}.html").write_text(html, encoding="utf-8")
    return root


@pytest.fixture
def page(visit, pages):
    """The page of one run."""
    return visit(pages / "run.html")


def texts(page, selector):
    return page.locator(selector).all_text_contents()


def step_of(page):
    return page.text_content("#step")


# --- one run ---


def test_the_newest_step_is_shown_with_its_groups_and_answers(page):
    assert page.text_content("#title") == "first"
    assert step_of(page) == "step 6"
    assert texts(page, "#groups .text") == [f"Problem {i} of step 6" for i in range(3)]
    assert page.text_content(".problem") == "Problem 0 of step 6"
    assert "60" in page.text_content(".gold")
    first, second = texts(page, ".answer > header")
    assert "✓ strict" in first and "+1.00" in first and "10 tokens" not in first
    assert "✗ robust" in second and "advantage −1.00" in second
    assert page.text_content(".tokens") == "so \\boxed{60}<|end|>"


def test_arrow_keys_walk_through_steps_and_groups(page):
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert step_of(page) == "step 4"
    assert page.text_content(".problem") == "Problem 1 of step 4"
    for _ in range(9):  # no further than to the ends
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    assert step_of(page) == "step 6"
    assert page.text_content(".problem") == "Problem 2 of step 6"
    assert page.is_disabled("#later") and page.is_enabled("#earlier")


def test_a_click_on_a_curve_goes_to_its_step(page):
    curve = page.locator(".panel", has_text="Reward").locator(".u-over")
    width = curve.bounding_box()["width"]
    curve.click(position={"x": width * 2 / 6, "y": 40})  # the axis goes from 0 to 6
    assert step_of(page) == "step 2"
    playwright.expect(page.locator(".panel b").first).to_have_text("0.2")


def test_the_curves_are_those_of_tools_plot_and_the_users_own(page):
    names = ["Reward", "Held-out accuracy", "Response length", "Entropy", "Clipped tokens", "mine"]
    assert texts(page, ".panel h2 > span") == names
    clipped = page.locator(".panel h2", has_text="Clipped").get_attribute("title")
    assert clipped == "share of tokens, bold: above, fine: below"


def test_tokens_are_coloured_by_what_is_chosen(page):
    def tokens(card, script):
        return page.locator(".tokens").nth(card).locator(".t").evaluate_all(script)

    def signs(card):
        sign = "t.matches('.above') ? '+' : t.matches('.below') ? '-' : '0'"
        return tokens(card, f"tokens => tokens.slice(0, 4).map(t => {sign}).join('')")

    assert (signs(0), signs(1)) == ("++0+", "--0-")  # push: the clipped token gets none
    lines = (
        "([t]) => getComputedStyle(t).textDecorationLine + getComputedStyle(t).textDecorationStyle"
    )
    assert (tokens(0, lines), tokens(1, lines)) == ("underlinesolid", "underlinedotted")
    page.select_option("#colour", "ratio")
    assert (signs(0), signs(1)) == ("0000", "-+-+")
    page.keyboard.press("Escape")
    page.locator("body").press("6")
    assert page.input_value("#colour") == "clipped"
    assert (signs(0), signs(1)) == ("00+0", "00+0")
    page.keyboard.press("ArrowDown")  # a group that nobody solved
    page.keyboard.press("1")
    assert signs(0) == signs(1) == "0000" and "no push" in page.text_content("#legend")
    page.locator("body").press("8")
    assert signs(0) == "0000"
    assert page.text_content("#legend") == ""


def test_hovering_shows_the_numbers_of_a_token(page):
    page.locator(".tokens").nth(1).locator(".t").nth(3).hover()
    tip = page.inner_text("#tip")
    facts = dict(zip(texts(page, "#tip dt"), texts(page, "#tip dd"), strict=True))
    assert tip.startswith("\\")
    assert facts["token"] == "4 of 14"
    assert facts["probability"] == "0.687"  # exp(-0.375)
    assert facts["entropy"] == "0"
    assert facts["ratio"] == "1.1331"  # exp(0.125)
    assert facts["log-prob gap"] == "0.0625"
    assert facts["weight"] == "1.0e-4"
    assert facts["push"] == "-1.1e-4"  # advantage -1, weight 1e-4, ratio 1.13


def test_search_looks_into_kinds_problems_and_answers_of_all_steps(page):
    page.keyboard.press("/")
    for word, groups in {
        **{"mixed": 6, "solved": 6, "failed": 6, "truncated": 1, "disputed": 1, "reset": 3},
        "boxed{61": 0,  # 61's group was not solved
        "BOXED{62": 1,
        "problem 1 of step 3": 1,
    }.items():
        page.fill("#search", word)
        assert page.locator("#groups .text").count() == groups, word
    page.locator("#groups button").click()
    assert step_of(page) == "step 3" and page.text_content(".problem") == "Problem 1 of step 3"


def test_held_out_problems_are_followed_through_training(page):
    page.keyboard.press("h")
    rows = [row.split() for row in page.locator("#followed tbody").inner_text().split("\n")]
    assert rows == [["Held-out", "problem", "0", "0", "100", "100"],
                    ["Held-out", "problem", "1", "0", "0", "100"]]  # fmt: skip
    page.locator("#followed tbody tr").nth(1).locator("button").nth(1).click()
    assert step_of(page) == "step 3"
    assert "step 3: \\boxed{9}" in texts(page, ".tokens")[0]


def test_two_steps_stand_side_by_side(page):
    page.keyboard.press("h")
    page.keyboard.press("c")
    assert [text[:6] for text in texts(page, ".tokens")[::2]] == ["step 6", "step 3"]
    page.select_option(".pane:nth-child(2) select", label="step 0, held-out, 0 %")
    assert [text[:6] for text in texts(page, ".tokens")[::2]] == ["step 6", "step 0"]
    page.keyboard.press("Escape")
    page.locator("body").press("ArrowDown")  # the other step stays chosen for the next problem
    assert texts(page, ".problem") == ["Held-out problem 1"] * 2
    assert [text[:6] for text in texts(page, ".tokens")[::2]] == ["step 6", "step 0"]
    page.locator("body").press("h")
    assert "kept nowhere else" in page.text_content("#panes > .nothing")


def test_the_theme_is_the_systems(visit, pages):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = visit(pages / "run.html", scheme="light")
    dark = visit(pages / "run.html", scheme="dark")
    assert light.evaluate(paper) != dark.evaluate(paper)


def test_the_choice_outlives_a_reload(page):
    for key in ("ArrowLeft", "ArrowDown", "5"):
        page.keyboard.press(key)
    before = page.inner_text("body")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("body") == before


def test_help_opens_and_closes(page):
    page.keyboard.press("?")
    assert page.is_visible("text=earlier or later step")
    page.keyboard.press("ArrowLeft")  # not heard behind the dialog
    page.keyboard.press("Escape")
    assert not page.is_visible("#help") and step_of(page) == "step 6"


# --- two runs, an evaluation ---


def test_two_runs_stand_side_by_side_on_the_same_problem(visit, pages):
    page = visit(pages / "two.html")
    assert page.text_content("#title") == "first and second"
    page.keyboard.press("c")
    assert texts(page, ".problem") == ["Problem 0 of step 6"] * 2
    tokens = texts(page, ".tokens")
    assert tokens[1] == "hm \\boxed{65}<|end|>" and tokens[3] == "hm \\boxed{66}<|end|>"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert texts(page, ".problem") == ["Problem 1 of step 5"] * 2
    page.click("#kinds button >> text=Held-out B")
    assert texts(page, ".where .run") == ["second", "first"]


def test_an_evaluation_shows_the_verifiers_disagreements(visit, pages):
    page = visit(pages / "evaluation.html")
    assert step_of(page) == "aime"
    assert "2 of 4 right, 1 to the letter" in page.text_content(".where")
    assert "@1 0.5  @2 0.833  @4 1" in page.text_content(".where")
    assert page.locator(".answer.disputed .tokens").all_text_contents() == ["\\boxed{7.0}"]
    page.keyboard.press("ArrowRight")
    assert (step_of(page), page.text_content(".problem")) == ("amc", "amc 0?")
    page.fill("#search", "disputed")
    assert texts(page, "#groups .text") == ["aime 0?", "aime 1?", "amc 0?"]


# --- text that is hostile, and long ---


def test_hostile_text_is_shown_as_text(visit, pages):
    page = visit(pages / "hostile.html")
    elements = page.locator("script, img, style").count()
    for number, text in enumerate(HOSTILE.values()):
        page.locator("#groups button").nth(number).click()
        raw = page.evaluate("answerText(current().answers[0])")
        assert raw == text
        shown = page.evaluate("visible(answerText(current().answers[0]))")
        assert texts(page, ".tokens")[0] == shown + "<|end|>"
        assert page.text_content(".problem") == page.evaluate("visible(current().problem.trim())")
    shown = page.evaluate("visible('\\0 \\x1b[31m \\u202eabc \\x7f \\n')")
    assert shown == "␀ ␛[31m ⟨U+202E⟩abc ⟨U+007F⟩ \n"
    assert page.evaluate("window.hacked") is None
    assert page.locator("script, img, style").count() == elements


def test_an_emoji_is_one_piece_with_the_numbers_of_all_its_tokens(visit, pages):
    page = visit(pages / "hostile.html")
    page.locator("#groups button").nth(list(HOSTILE).index("emoji")).click()
    page.locator(".tokens").nth(0).locator(".t").nth(0).hover()
    assert page.text_content("#tip .word") == "👩"
    assert texts(page, "#tip dt").count("token") == 4
    assert "\ufffd" not in "".join(texts(page, ".tokens"))


def test_a_hundred_thousand_characters_are_shown_on_demand(visit, pages):
    page = visit(pages / "hostile.html")
    page.locator("#groups button").last.click()
    assert len(texts(page, ".tokens")[0]) < 2000
    for characters, left in [(7500, "92,501"), (13_500, "86,501")]:
        page.locator(".more").first.click()
        assert len(texts(page, ".tokens")[0]) == characters
        assert page.locator(".more").first.text_content() == f"Show more: {left} tokens left"
    assert page.evaluate("answerText(current().answers[0]).length") == 100_000


# --- a page that is written again ---


def test_a_page_keeps_the_choice_when_it_is_written_again(visit, tmp_path):
    folder, path = make_run(tmp_path / "run", steps=3), tmp_path / "view.html"
    path.write_text(render([load(folder)]), encoding="utf-8")
    page, second = visit(path), visit(path)
    page.keyboard.press("5")
    page.keyboard.press("ArrowLeft")
    write_step(folder, load_tokenizer(str(folder / "model")), 4)
    path.write_text(render([load(folder)]), encoding="utf-8")
    for opened in (page, second):
        opened.reload()
        opened.wait_for_selector("body[data-ready]")
    assert (step_of(page), page.input_value("#colour")) == ("step 2", "ratio")
    assert step_of(second) == "step 4"  # it was at the newest step, and follows
