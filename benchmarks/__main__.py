"""`python -m benchmarks [NAME ...]`: run all or some, and write tables and raw timings."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from benchmarks import cushion, detectors, engine, gpu, guard, reading, robustness, shield, training
from benchmarks.record import Record, write_page

BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (engine, guard, shield, training, detectors, cushion, reading, gpu, robustness)
}
APART = {"gpu", "robustness"}  # only by name: one asks for a CUDA device, the other takes an hour or two


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and memory; all together about half an hour on two idle cores.",
        epilog="example: python -m benchmarks engine guard --out runs/benchmarks",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; default all but gpu and robustness"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs (goes to runs/benchmarks)"
    )
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures")
    parser.add_argument("--threads", type=int, help="compute threads; default all cores")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    default = Path("runs/benchmarks") if given.quick else Path(__file__).parent / "results"
    out: Path = given.out or default
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    started = time.perf_counter()
    for name in given.names or [name for name in BENCHMARKS if name not in APART]:
        module = BENCHMARKS[name]
        print(f"{name}:", flush=True)
        record = Record(name, module.ABOUT, command=command, out=out, seed=given.seed, quick=given.quick)
        module.run(record)
        record.save(complete=True)
        page = write_page(out, list(BENCHMARKS))
    print(f"{page} written after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
