#!/usr/bin/env python3
"""What gradient checkpointing saves and costs: the same steps with and without it, in turns.

    cargo build --release --workspace
    python3 benches/checkpointing.py [--steps 6] [--turns 3] [WORKLOAD[:BATCH] ...]

Run from the root of the repository, on a machine that does nothing else. Prints a table: fastest step, least processor
time of a step, peak memory of the process, what of it came with the steps, and what `chiasm plan` counts for the
recipe. Losses and gradient norms of both must agree to the last digit, or there is no table.
"""

import argparse
import os
import pathlib
import tomllib

from plan import TURNS, measured, predicted

SWITCH = "--gradient-checkpointing"
WORKLOADS = ["contrastive_step", "contrastive_step:128", "scl_step", "scl_step:64"]


def planned(program, workload, batch, checkpointing):
    """The peak that the plan of the workload's recipe counts, in MB, with as many words as the workload has."""
    settings = tomllib.loads(workload.read_text())
    words = settings["batches"]["vocab_size"]
    keys = [f"schedule.gradient_checkpointing={str(checkpointing).lower()}", f"tokenizer.vocab_size={words}"]
    if batch:
        keys.append(f"schedule.batch_size={batch}")
    shortest, longest = settings["batches"]["text_len"]
    plan = predicted(program, settings["recipe"], (shortest + longest) // 2, keys)
    return plan["memory"]["peak"] / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    args = parser.parse_args()
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release"
    print("| workload | pairs a step | gradient checkpointing | step, ms | its processor time, ms | peak, MB "
          "| with the steps, MB | planned peak, MB |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for named in args.workloads:
        name, _, batch = named.partition(":")
        workload = pathlib.Path(f"benches/workloads/{name}.toml")
        sized = ["--batch-size", batch] if batch else []
        runs = {False: [], True: []}
        for _ in range(args.turns):
            for checkpointing, found in runs.items():
                options = [*sized, *([SWITCH] if checkpointing else [])]
                found.append(measured(release / "chiasm-bench", workload, args.steps, options))
        values = [found[-1] for both in runs.values() for found in both]
        assert all(other == values[0] for other in values), f"{named}: {values}"
        for checkpointing, found in runs.items():
            seconds = min(run[0] for run in found)
            busy = min(run[3] for run in found)
            peak = max(run[2] for run in found)
            added = max(run[2] - run[1] for run in found)
            plan = planned(release / "chiasm", workload, batch, checkpointing)
            print(f"| `{name}` | {batch or 'as given'} | {'on' if checkpointing else 'off'} "
                  f"| {1000 * seconds:.0f} | {1000 * busy:.0f} | {peak:.0f} | {added:.0f} | {plan:.0f} |", flush=True)


if __name__ == "__main__":
    main()
