"""``--help``: how to call it, the groups with their choices, and every key with the value that it would have.

Hydra's own help lists internal groups too, and takes longer to find them than all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

USAGE = """RLHF benchmark harness: SFT, reward model and PPO, scored before and after into a leaderboard.

python -m harness [group=option] [key=value] [-m for a sweep over values given as a,b,c]

  python -m harness task=summarize                              one set-up, offline, on this machine
  python -m harness -m algorithm.kl_coef=0.02,0.05 seed=1,2,3   a sweep; finished stages are shared
  python -m harness task=qa plan=true                           what would run, and stop
  python -m harness.leaderboard build runs=runs to=site         the pages again, from the records alone
  python -m harness.reward_bench --help                         reward models on files of preferences
  python -m harness --hydra-help                                Hydra's own flags"""


def asks_for_help(arguments: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in arguments)


BENCH_GROUPS = ("pairs",)
"""Groups that the reward bench alone has."""


def show_help(arguments: Sequence[str]) -> None:
    """Print the help; overrides on the same command line are applied to the keys shown.

    Raises:
        HydraException: an override cannot be applied.
    """
    print_help(arguments, "config", USAGE, group_options())


def print_help(arguments: Sequence[str], config_name: str, usage: str, groups: Mapping[str, Sequence[str]]) -> None:
    """How to call it, the groups with their options, and the composed configuration.

    Args:
        arguments: the command line; its overrides are applied to the keys shown.
        config_name: the file in ``conf/`` that is composed, without its ending.
        usage: what stands first.
        groups: group -> its options, in the order in which they are shown.

    Raises:
        HydraException: an override cannot be applied.
    """
    from hydra import compose, initialize_config_module
    from hydra._internal.utils import get_args_parser
    from omegaconf import OmegaConf

    typed = get_args_parser().parse_args(list(arguments))
    overrides = list(typed.overrides)
    if typed.config_dir:
        overrides.append(f"hydra.searchpath=['file://{Path(typed.config_dir).absolute()}']")
    with initialize_config_module("harness.conf", version_base="1.3"):
        config = compose(config_name, overrides=overrides)
    listed = "\n".join(f"  {group}: {', '.join(options)}" for group, options in groups.items())
    print(f"{usage}\n\nGroups and their options (group=option)\n{listed}\n")
    print(f"Keys and their values (key=value, e.g. sft.epochs=1)\n\n{OmegaConf.to_yaml(config)}", end="")


def group_options(*, bench: bool = False) -> dict[str, list[str]]:
    """The groups in alphabetical order, with the options of each; ``bench``: the groups that the bench alone has."""
    folders = sorted((entry for entry in files("harness.conf").iterdir() if entry.is_dir()), key=lambda e: e.name)
    found = {
        folder.name: sorted(e.name.removesuffix(".yaml") for e in folder.iterdir() if e.name.endswith(".yaml"))
        for folder in folders
    }
    return {group: options for group, options in found.items() if options and (group in BENCH_GROUPS) == bench}
