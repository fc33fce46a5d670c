#!/usr/bin/env python3
"""Asks upstream's kube-apiserver and the server under test the same, and counts where they answer alike.

    python3 tests/oracle/run.py --oracle KUBECONFIG --ours KUBECONFIG --out DIR
        [--scripts fields,merges,updates,reads] [--kinds Pod,Service] [--seed N] [--every F] [--record FILE]

`cargo xtask oracle` starts both servers and calls this. DIR gets a file of JSON lines for each script (each request that
was answered differently, with both answers and the class of the difference) and scores.md, the table that is printed.
--every is the share of the cases that is tried (merges: of 2,000 sequences); the seed picks them. --record writes the
corpus of upstream's answers that `cargo test` replays (see record.py) and runs no script.
"""

import argparse
import importlib
import pathlib
import random
import sys

import kinds
import record
from common import Record, Server

SCRIPTS = ["fields", "merges", "updates", "reads"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--scripts", default=",".join(SCRIPTS))
    parser.add_argument("--kinds", default=",".join(kinds.KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    names = args.kinds.split(",")
    if unknown := [name for name in names if name not in kinds.KINDS]:
        sys.exit(f"unknown kinds: {', '.join(unknown)}")
    oracle, ours = Server(args.oracle), Server(args.ours)
    for server in (oracle, ours):
        server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": kinds.NAMESPACE}})
        # No controller makes it here; without a token no volume is added that only upstream has.
        account = {"metadata": {"name": "default"}, "automountServiceAccountToken": False}
        server.ask("POST", kinds.collection("ServiceAccount"), account)
    if args.record:
        record.run(oracle, kinds.served(ours, names), args.seed, args.record)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for script in args.scripts.split(","):
        found = Record(args.out / f"{script}.jsonl")
        importlib.import_module(script).run(oracle, ours, found, names, random.Random(args.seed), args.every)
        table = f"### {script}\n\n{found.table()}\n"
        print(table, flush=True)
        tables.append(table)
    (args.out / "scores.md").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
