"""Reports as a browser shows them. Skipped where none is installed."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_helpers import page_of, run_folder, runs_in


def browser():
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    return next(filter(None, found), None)


FRAME = (
    '<iframe style="width:{width}px;height:800px;border:0;color-scheme:{scheme}" srcdoc="{page}"></iframe>'
)
LOOK = """
<pre id="out"></pre>
<script>
function boxes(document, selector) {
  return [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect());
}
function overlaps(found) {
  return found.filter((a, i) => found.some((b, j) => j > i &&
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length;
}
addEventListener("load", () => {
  const looks = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement, window = frame.contentWindow;
    const shown = e => e.getClientRects().length > 0;
    return {
      overflow: root.scrollWidth - root.clientWidth,
      background: window.getComputedStyle(page.body).backgroundColor,
      loaded: window.performance.getEntriesByType("resource").length,
      scripts: page.scripts.length,
      charts: boxes(page, "svg").filter(box => box.width > 150 && box.height > 100).length,
      crowded: [...page.querySelectorAll(".x, .y, .ends")].filter(
        axis => shown(axis) && overlaps([...axis.children].map(e => e.getBoundingClientRect()))).length,
      labels: [...page.querySelectorAll(".ends")].filter(shown).length,
      legends: [...page.querySelectorAll(".legend")].filter(shown).length,
    };
  });
  document.getElementById("out").textContent = JSON.stringify(looks);
});
</script>
"""


def looks_of(pages, tmp_path):
    """What a browser shows of pages at two widths, light and dark: ((page, width, scheme), look) of each."""
    cases = [(page, width, scheme) for page in pages for width in (1280, 390) for scheme in ("light", "dark")]
    frames = (
        FRAME.format(page=html.escape(pages[page]), width=width, scheme=scheme)
        for page, width, scheme in cases
    )
    (tmp_path / "look.html").write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(frames)}{LOOK}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser(), *flags, "--dump-dom", (tmp_path / "look.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    looks = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom)[1]))
    return zip(cases, looks, strict=True)


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
def test_in_a_browser_at_two_widths_light_and_dark(tmp_path):
    """Nothing is wider than the page, no labels overlap, dark mode is dark, and nothing is loaded."""
    long = {"env_kwargs": {"name": "n" * 150}, "env_id": "x" * 90}
    gammas = [("a", 0.9), ("b", 0.95)]
    pages = {
        "seeds": page_of(*runs_in(tmp_path / "runs", 3)),
        "settings": page_of(
            *(run_folder(tmp_path / (name * 90), settings=long | {"gamma": gamma}) for name, gamma in gammas)
        ),
    }
    for (page, width, scheme), look in looks_of(pages, tmp_path):
        red = int(re.findall(r"\d+", look.pop("background"))[0])
        assert red < 60 if scheme == "dark" else red > 240
        wide, large = width == 1280, 1 if page == "seeds" else 2
        assert look == {
            "overflow": 0,
            "loaded": 0,
            "scripts": 0,
            "charts": large + 4,
            "crowded": 0,
            "labels": large if wide else 0,
            "legends": (0 if wide else large) + (page == "settings"),
        }
