#!/usr/bin/env python3
"""Compares what `chiasm plan` predicts with measured steps: time and peak memory.

    cargo build --release --workspace
    python3 benches/plan.py [--steps 6]

Run from the root of the repository, on a machine that does nothing else. Prediction and measurement
take turns three times; the fastest rate and the fastest step count, because anything else that runs
makes them slower. Memory is that of the process that makes the steps, beside what it held before the
first one.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tomllib

TURNS = 3


def held(pid, field):
    """A figure of /proc/PID/status, in MB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


def worked(pid):
    """Seconds of processor time that a process has taken so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measured(program, workload, steps, options=()):
    """Fastest step in seconds; memory before the first step and at the peak, in MB; processor time of a step, which
    depends least on what else runs; values of the last step."""
    command = [program, "serve", "--workload", str(workload), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        json.loads(run.stdout.readline())
        before, busy = held(run.pid, "VmRSS"), worked(run.pid)
        run.stdin.write(f"steps {steps}\n")
        run.stdin.flush()
        answer = json.loads(run.stdout.readline())
        peak, busy = held(run.pid, "VmHWM"), (worked(run.pid) - busy) / steps
        run.stdin.close()
    fastest = min(step["seconds"] for step in answer["steps"])
    return fastest, before, peak, busy, answer["steps"][-1]["values"]


def predicted(program, recipe, length, settings=()):
    """The plan of a recipe, with other values of some of its keys, for texts of so many tokens."""
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [program, "plan", str(recipe), *sets, "--text-len", str(length), "--json"]
    return json.loads(subprocess.check_output(command, text=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    steps = parser.parse_args().steps
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release"
    print("| recipe | G a step | G/s | step predicted, ms | measured, ms | ratio | peak predicted, MB "
          "| measured, MB | before the steps, MB | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for workload in sorted(pathlib.Path("benches/plan").glob("*.toml")):
        plans, runs = [], []
        for _ in range(TURNS):
            settings = tomllib.loads(workload.read_text())
            length = settings["batches"]["text_len"][0]
            plans.append(predicted(release / "chiasm", settings["recipe"], length))
            runs.append(measured(release / "chiasm-bench", workload, steps))
        plan = min(plans, key=lambda plan: plan["seconds"])
        seconds, before, *_ = min(runs, key=lambda run: run[0])
        peak = max(run[2] for run in runs)
        bytes_ = plan["memory"]["peak"] / 1e6
        print(f"| {workload.stem} | {plan['step']['shared'] / 1e9:.1f} | {plan['rate'] / 1e9:.1f} "
              f"| {1000 * plan['seconds']:.0f} | {1000 * seconds:.0f} "
              f"| {plan['seconds'] / seconds:.2f} | {bytes_:.0f} | {peak:.0f} | {before:.0f} "
              f"| {bytes_ / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
