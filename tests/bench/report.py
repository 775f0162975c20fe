"""The report's speed: ``python -m tests.bench.report [--large]``.

A made-up run of 28,800 rows (150 steps of 24 queries of 8 answers, pocket texts), or with
``--large`` of 384,000 rows of 2,000 characters (1,500 steps of 32 of 8), as a 3B model would leave:
seconds and size of its report, then in headless Chromium the time until the page has drawn, and of
a move of the slider (the next frame included).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lsp.loop.launch import start
from lsp.pocket.language import ALPHABET, FAMILIES
from lsp.tracking.local import LocalTracker
from lsp.tracking.rows import SCHEMA

ROOT = Path(__file__).parents[2]


def make_run(folder: Path, steps: int, queries: int, answers: int, characters: int) -> None:
    """A real run's folder whose trace and metrics are made up. ``characters`` 0: pocket texts."""
    small = ["num_queries=2", "group_size=2", "eval=none", "tracker=none", "checkpoint.keep=1"]
    start([*small, "num_steps=1", f"run_dir={folder}"])
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    shutil.rmtree(folder / "trace")
    (folder / "metrics.jsonl").unlink()
    source = random.Random(0)
    tracker = LocalTracker(folder)

    def text() -> str:
        if characters:
            words = (f"w{source.randrange(10_000)}" for _ in range(characters // 6))
            return " ".join(words)
        return "".join(source.choice(ALPHABET) for _ in range(source.randint(1, 8)))

    for step in range(1, steps + 1):
        rows = []
        for q in range(queries):
            query = text() if characters else f"{source.choice(list(FAMILIES))} {text()}"
            own = dict.fromkeys(SCHEMA.names) | {
                "source": "challenger", "quality_status": "read",
                "run_id": "made-up", "step": step, "query_id": f"s{step}-q{q}", "query": query,
                "query_finish_reason": "stop", "query_value": source.random(), "query_tokens": 9,
                "challenger_reward": source.random(), "challenger_advantage": source.gauss(0, 1),
            }  # fmt: skip
            rows += [
                own | {"answer_id": f"a{a}", "answer": text(), "reward": source.random(),
                       "quality": 7 * source.random(), "solver_reward": source.random(),
                       "solver_advantage": source.gauss(0, 1), "answer_tokens": 9,
                       "answer_finish_reason": "stop"}
                for a in range(answers)
            ]  # fmt: skip
        values = {k: v * source.random() for k, v in line.items() if k != "step" and v is not None}
        tracker.log(step, values, rows)
    tracker.finish({})


def in_browser(path: Path) -> tuple[float, list[float]]:
    """(seconds until drawn, milliseconds of each move of the slider)."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.locator("#board details").first.wait_for()
        opened = time.perf_counter() - started
        moves = page.evaluate("""async () => {
            const slider = document.getElementById("step"), found = [];
            const frame = () => new Promise((done) => 
                requestAnimationFrame(() => setTimeout(done)));
            for (let i = 0; i < 30; i++) {
                const started = performance.now();
                slider.value = Math.floor(i * slider.max / 30);
                slider.dispatchEvent(new Event("input"));
                await frame();
                found.push(performance.now() - started);
            }
            return found;
        }""")
        browser.close()
    return opened, moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    large = parser.parse_args().large
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        make_run(run, *((1500, 32, 8, 2000) if large else (150, 24, 8, 0)))
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "lsp.report", str(run)], cwd=ROOT, check=True)
            seconds = time.perf_counter() - started
            size = (run / "report.html").stat().st_size
            opened, moves = in_browser(run / "report.html")
            print(
                f"report {seconds:.2f} s, {size / 1e6:.2f} MB; opens in {opened:.2f} s; slider"
                f" {statistics.median(moves):.0f} ms (worst {max(moves):.0f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
