"""Open the demo page in Chromium and measure it: python tests/measure/show_demo.py [--page FILE]

Prints how long a grid of samples takes and the frames a second of a morphing digit, and
takes screenshots, light at a desktop's and dark at a phone's size, into the folder of the page.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

GRID = """() => Array.from({length: 10}, () => {
    const start = performance.now();
    drawGrid();
    return performance.now() - start;
})"""
FRAMES = """() => new Promise(resolve => {
    const times = [];
    const frame = now => {
        times.push(now);
        moveTo(0.5 + 0.5 * Math.sin(times.length / 20), 0.5 + 0.5 * Math.cos(times.length / 20));
        if (times.length <= 100) requestAnimationFrame(frame);
        else resolve(times.slice(1).map((time, i) => time - times[i]));
    };
    requestAnimationFrame(frame);
})"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path, default=Path("generated_samples/demo.html"))
    path = parser.parse_args().page.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, size, scheme in (
            ("desktop", (1120, 760), "light"),
            ("phone", (390, 844), "dark"),
        ):
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
            )
            page.goto(path.as_uri())
            times = page.evaluate(GRID)
            print(f"{name}: a grid in {statistics.median(times):.0f} ms (median of 10)", end=", ")
            pauses = page.evaluate(FRAMES)
            print(f"{1000 / statistics.median(pauses):.0f} frames a second", end=" ")
            print(f"(median of 100, slowest {1000 / max(pauses):.0f})")
            page.evaluate("moveTo(0.5, 0.5)")
            page.screenshot(path=path.with_name(f"demo_{name}.png"), full_page=name == "phone")
        browser.close()


if __name__ == "__main__":
    main()
