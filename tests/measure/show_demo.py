"""Open the demo page in Chromium and measure it: python tests/measure/show_demo.py [--page FILE]

Prints how long a grid of samples and a frame of the blend take, the frames a second, and
takes screenshots, light at a desktop's and dark at a phone's size, into the folder of the page.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

TIMES = """draw => Array.from({length: 50}, (_, i) => {
    const start = performance.now();
    draw === "grid" ? drawGrid() : moveTo(i / 50, 0.5);
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
            ("desktop", (1280, 800), "light"),
            ("phone", (390, 844), "dark"),
        ):
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page.goto(path.as_uri())
            for draw in ("grid", "blend"):
                times = page.evaluate(TIMES, draw)
                print(
                    f"{name}: a {draw} in {statistics.median(times):.1f} ms (median of 50)", end=" "
                )
                print(f"{min(times):.1f} (fastest)")
            pauses = page.evaluate(FRAMES)
            print(f"{name}: {1000 / statistics.median(pauses):.0f} frames a second", end=" ")
            print(f"(median of 100, slowest {1000 / max(pauses):.0f})")
            page.evaluate("moveTo(0, 0)")
            page.screenshot(path=path.with_name(f"demo_{name}.png"), full_page=name == "phone")
        browser.close()


if __name__ == "__main__":
    main()
