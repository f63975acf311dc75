"""Numbers of aggregators and decoders that would tear later: at the first image, or only in training."""

from __future__ import annotations

from ovseg.errors import ConfigError, at_least


def all_at_least(low: int, **numbers: int | tuple[int, ...]) -> None:
    """Refuse numbers, by the names of their options, that are below a bound, alone or in a list.

    Raises:
        ConfigError: One is.
    """
    for name, value in numbers.items():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            at_least(name, one, low)


def check_count(count: int, **numbers: tuple[int, ...]) -> None:
    """Refuse lists that have not so many numbers.

    Raises:
        ConfigError: One has not.
    """
    for name, values in numbers.items():
        if len(values) != count:
            raise ConfigError(f"{name} is {list(values)}; expected {count} numbers")


def check_pooling(grid: tuple[int, int], **pools: tuple[int, ...]) -> None:
    """Refuse numbers of places of a grid (h, w) that are taken together and are not two from 1 to its sides.

    Raises:
        ConfigError: They are not.
    """
    check_count(2, **pools)
    all_at_least(1, **pools)
    for name, (high, wide) in pools.items():
        if high > grid[0] or wide > grid[1]:
            raise ConfigError(
                f"{name} is {[high, wide]} on a grid of {grid[0]} x {grid[1]}; expected no more than that"
            )


def check_heads(dim: int, heads: int) -> None:
    """Refuse channels that heads cannot share.

    Raises:
        ConfigError: They cannot.
    """
    at_least("heads", heads, 1)
    if dim < 1 or dim % heads:
        raise ConfigError(f"heads is {heads}, and the maps have {dim} channels there; expected a multiple of the heads")
