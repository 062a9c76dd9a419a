"""Writes docs/replication.md from the result files: `python -m bench.replications`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastmeta.cli.display import duration
from fastmeta.cli.replications import REPLICATIONS

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "replication.md"

# Accuracies of the papers in percent, as they print them.
PUBLISHED = {
    "omniglot-maml-5w1s": "98.7 ± 0.4 (Finn et al. 2017)",
    "omniglot-fomaml-5w1s": "98.3 (Nichol et al. 2018)",
    "omniglot-meta-sgd-5w1s": "99.53 ± 0.26 (Li et al. 2017)",
    "omniglot-reptile-5w1s": "97.68 (Nichol et al. 2018, transductive)",
    "omniglot-maml-plus-plus-5w1s": "99.47 (Antoniou et al. 2019)",
    "omniglot-imaml-5w1s": "99.16 (Rajeswaran et al. 2019)",
    "omniglot-maml-5w5s": "99.9 ± 0.1 (Finn et al. 2017)",
    "omniglot-maml-20w1s": "95.8 ± 0.3 (Finn et al. 2017)",
    "omniglot-proto-5w1s": "98.8 (Snell et al. 2017)",
    "omniglot-proto-20w1s": "96.0 (Snell et al. 2017)",
    "omniglot-proto-5w5s": "99.7 (Snell et al. 2017)",
    "omniglot-proto-20w5s": "98.9 (Snell et al. 2017)",
    "omniglot-matching-5w5s": "98.9 (Vinyals et al. 2016, cosine)",
    "omniglot-matching-cosine-5w1s": "98.1 (Vinyals et al. 2016)",
    "omniglot-matching-cosine-20w1s": "93.8 (Vinyals et al. 2016)",
    "omniglot-relation-5w1s": "99.6 (Sung et al. 2018)",
    "omniglot-siamese-5w1s": "97.3 (Koch et al. 2015, as in Finn et al. 2017)",
    "omniglot-mann-5w1s": "82.8 (Santoro et al. 2016)",
    "omniglot-snail-5w1s": "99.07 ± 0.16 (Mishra et al. 2018)",
}
ENDED = {
    "steps": "trained to the end",
    "patience": "stopped: validation no longer improved",
    "time limit": "stopped by the time limit",
}
INTRODUCTION = """\
# Published experiments

`fastmeta reproduce NAME [NAME ...] --data DIR --out DIR` trains and tests configurations by name, one after another, and goes on where it was interrupted;
`fastmeta reproduce --list` shows them, [fastmeta/cli/replications](../fastmeta/cli/replications) defines them. Without `--data` the images are downloaded;
the splits come with the package. This page is written from the result files by `python -m bench.replications`; a test holds it to them.

Training ends after the configured meta-steps, after a number of validations without a new best, or at the time limit, whichever comes first; the parameters
of the best validation are tested once. The limits printed below are those of the run (`--minutes`), which those of `--list` may have outgrown; a configuration's version counts
its changes, and results of different versions are not comparable. All figures are of one seed: intervals cover test tasks, not training runs. The rates of MAML were picked from probes of 25 to 30 seconds scored on validation characters, those of the others are their
papers' or MAML's, but for three, picked by short probes that were scored on validation tasks:

- Reptile departs from its paper's inner Adam: plain steps of 0.2 were right more often than Adam at any of four rates, its second moments kept from task to task, as the
  paper's code does and `fm.Reptile` does not, or begun anew.
- iMAML steps by 0.02, not by its paper's 0.1, which the curvature outgrows: accuracy fell again after two inner steps. The paper's code takes 32 tasks a meta-step, damps its
  system further, to 2 z + H z / (damping + 10), and pulls towards the start once, after the inner steps; this configuration does none of that. The last two were no better
  in short probes. Training ends early, since in a longer run curvature outgrew the inner steps, which an implicit gradient does not see.
- The memory-augmented network has 100 units where its paper has 200, which learned without the memory. Its paper reads images by a stream of 50 examples and no convolutions; here
  the support set is the stream, through the embedding that the others have, with 32 channels.

The papers train MAML and its relatives for 20,000 to 100,000 meta-steps; these configurations fit into minutes on two cores, so a difference from a published figure is not, by
itself, one between methods. Intervals are 1.96 s / sqrt(n) over n test tasks.
"""


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of `fastmeta reproduce` in a folder, by name, in the order of the configurations."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    by_name = {r["replication"]: r for r in found if "replication" in r}
    return {name: by_name[name] for name in REPLICATIONS if name in by_name}


def page(found: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    head = ["| configuration | accuracy, % | published, % | meta-steps | training | ended |", "|---|---|---|---|---|---|"]
    rows = [_row(name, r) for name, r in found.items()]
    conditions = [line for name, r in found.items() for line in _conditions(name, r)]
    missing = [f"`{name}`" for name in REPLICATIONS if name not in found]
    absent = ["", f"Configured, without a result here: {', '.join(missing)}."] if missing else []
    return "\n".join([INTRODUCTION, *head, *rows, *absent, *conditions, ""])


def _row(name: str, r: dict[str, Any]) -> str:
    m = r["metrics"]
    return _cells(
        f"[{name}](results/{name}.json), version {r['config']['version']}",
        f"**{100 * m['accuracy']:.2f} ± {100 * m['accuracy_interval']:.2f}** ({m['tasks']:,} tasks)",
        PUBLISHED.get(name, ""),
        f"{r['meta_steps']:,} of {r['config']['steps']:,}",
        duration(r["train_seconds"]),
        ENDED[r["ended"]],
    )


def _conditions(name: str, r: dict[str, Any]) -> list[str]:
    """How a result was obtained."""
    c, p, machine = r["config"], r["protocol"], r["machine"]
    return [
        "",
        f"## {name}",
        "",
        *_method(c, r["parameters"]),
        f"- {c['tasks']} tasks a meta-step, {_schedule(c)}; limits: {c['minutes']:g} minutes, {c['patience']} validations "
        f"({c['validation_episodes']} tasks every {c['validate_every']:,} meta-steps) without a new best; tested: meta-step {r['best_step'] or r['meta_steps']:,}",
        f"- split: {p['split']}; rotations: {p['rotations']}",
        f"- batch norm: {p['batch_norm']}; loss: {p['loss']}",
        *([] if c["test_steps"] is None else [f"- accuracy after 0, 1, ... inner steps: {_by_steps(r['metrics']['accuracies'])} %"]),
        f"- seed {c['seed']}; fastmeta {r['versions']['fastmeta']}, {machine['backend']} backend, {machine['threads']} threads of {machine['cpu']} ({machine['isa']}); "
        f"{duration(r['wall_seconds'])} with the test, {r['tasks_per_second']:,.0f} tasks/s on a machine that may have had other work",
    ]


def _by_steps(accuracies: list[float]) -> str:
    told = [f"{100 * a:.2f}" for a in accuracies]
    return ", ".join(told if len(told) <= 12 else [*told[:6], "...", told[-1]])


def _method(c: dict[str, Any], parameters: int) -> list[str]:
    """The learner, its net and its tasks."""
    options = "".join(f", {key} {value}" for key, value in c["options"].items())
    images = f"training tasks: {c['train_shots']} support and {c['queries']} query images a class; test tasks: {c['test_queries']} queries a class"
    if "train_ways" in c:
        trained = "" if c["trained"] is None else f"; the training of `{c['trained']}`"
        net = "nets of its paper" if c["learner"] == "RelationNet" else "embedding Conv4 (pooled, flattened)"
        return [
            f"- {c['learner']}, {net}, {c['channels']} channels, {parameters:,} meta-parameters{options}",
            f"- {c['ways']}-way {c['shots']}-shot, trained {c['train_ways']}-way{trained}; {images}",
        ]
    net = f"{'strided' if c['strided'] else 'pooled'}, {c['channels']} channels, {'spatial mean' if c['head'] == 'mean' else 'flattened'}"
    return [
        f"- {c['learner']}, Conv4 ({net}), {parameters:,} meta-parameters; inner lr {c['inner_lr']:g}, {c['inner_steps']} inner steps in training and {c['test_steps']} in the test{options}",
        f"- {c['ways']}-way {c['shots']}-shot; {images}",
    ]


def _schedule(c: dict[str, Any]) -> str:
    if "halve_every" in c:
        return f"adam, lr {c['meta_lr']:g} halved every {c['halve_every']:,} meta-steps"
    return f"{c['meta_rule']}, meta-lr {c['meta_lr']:g} falling over {c['steps']:,} meta-steps"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(results(RESULTS)))


if __name__ == "__main__":
    main()
